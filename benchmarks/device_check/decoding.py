"""How fast danlu's engine decodes: streams of several lengths, drawn, int8, int4, an adapter."""

from __future__ import annotations

import argparse
import math
import time
from contextlib import suppress
from dataclasses import replace

import torch

from benchmarks.device_check.kernels import Kernels, profiled
from benchmarks.device_check.part import Report
from benchmarks.device_check.setup import emptied, peak, random_model, seconds_of, waited
from benchmarks.device_check.shapes import SHAPES, Streams
from benchmarks.serve.danlu_side import random_adapter
from danlu.device.datasheets import REACHED_BANDWIDTH
from danlu.device.detect import select
from danlu.device.facts import device_facts
from danlu.engine.engine import Engine
from danlu.engine.graphs import DecodingGraphs
from danlu.engine.request import Output, Request, RequestId, SamplingSettings
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import Adapter
from danlu.model.config import ModelConfig, Quantization
from danlu.model.quantized import quantized_bytes
from danlu.model.qwen3 import Qwen3, replace_weight
from danlu.ops import QuantizedWeight, ops_table

GREEDY = SamplingSettings(temperature=0.0, ignore_eos=True)
# As Qwen3's own settings have it.
DRAWN = SamplingSettings(temperature=0.6, top_k=20, top_p=0.95, seed=0, ignore_eos=True)
_PROJECTIONS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def run(settings: argparse.Namespace, report: Report) -> None:
    """Measure streams of one length, also in few bits, by an adapter, drawn; then longer ones."""
    shape, device = SHAPES[settings.shape], select(settings.device)
    base = random_model(shape.config, device)
    one = shape.streams[0]
    alike = [streams for streams in shape.streams if streams.prompt == one.prompt]
    others = [streams for streams in shape.streams if streams not in alike]
    for streams in alike:
        with report.trying(streams.name):
            measure(base, streams, streams.name, report)
    bits: tuple[Quantization, ...] = ("int8", "int4")
    for quantization in bits:
        with report.trying(quantization):
            lesser = quantized(base, quantization)
            for streams in alike:
                name = f"{streams.name}, {quantization}"
                measure(lesser, streams, name, report, quantization=quantization)
            del lesser
    with report.trying("one adapter"):
        measure(base, one, "one adapter", report, adapter=random_adapter(0, base))
    for streams in (alike[0], alike[-1]):
        name = f"{streams.name}, drawn"
        with report.trying(name):
            measure(base, streams, name, report, sampling=DRAWN)
    for streams in others:
        with report.trying(streams.name):
            measure(base, streams, streams.name, report)


def limit_tokens_per_s(
    config: ModelConfig,
    streams: Streams,
    *,
    bandwidth: float,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
) -> float:
    """Return what reading weights and cache once a step allows; bandwidth: bytes per second.

    Of the embedding a step reads next to nothing, unless it is the output matrix, too.
    """
    weights = quantized_bytes(config, dtype, quantization, "cuda")
    if not (config.tie_word_embeddings and quantization is None):
        weights -= config.vocab_size * config.hidden_size * dtype.itemsize
    token = 2 * config.num_hidden_layers * config.kv_size * dtype.itemsize
    context = streams.start + streams.timed / 2
    return streams.count * bandwidth / (weights + streams.count * context * token)


def quantized(base: LoadedModel, quantization: Quantization) -> LoadedModel:
    """Return a model of the same shape with weights in int8 or int4, made on the device."""
    device = base.device.torch_device
    model = Qwen3(base.config, device=torch.device("meta"), dtype=base.dtype)
    pairs = list(zip(model.modules(), base.model.modules(), strict=True))
    for owner, source in pairs:
        for name, parameter in list(source.named_parameters(recurse=False)):
            is_matrix = name in (*_PROJECTIONS, "lm_head") and parameter.dim() == 2
            if not is_matrix:
                replace_weight(owner, name, parameter)
                continue
            weight = QuantizedWeight(parameter, quantization, device)
            weight.fill(parameter.detach())
            replace_weight(owner, name, weight)
    return replace(base, model=model, quantization=quantization)


def measure(
    base: LoadedModel,
    streams: Streams,
    name: str,
    report: Report,
    *,
    adapter: Adapter | None = None,
    quantization: Quantization | None = None,
    sampling: SamplingSettings = GREEDY,
) -> None:
    device = base.device.torch_device
    emptied(device)
    engine = _engine(base, streams)
    # Recordings and kernels are made by a first round that is not measured.
    _decode(engine, replace(streams, prompt=16, answer=4, timed=4), adapter, sampling, seed=1)
    kernels: list[Kernels] = []
    read_s, decode_s = _decode(engine, streams, adapter, sampling, seed=2, kernels=kernels)
    steps = streams.timed
    facts = device_facts(base.device, ops_table(device).chosen)
    # Of experts a step reads those that are chosen.
    limit = (
        math.nan
        if base.config.experts
        else limit_tokens_per_s(
            base.config,
            streams,
            bandwidth=facts.bandwidth / REACHED_BANDWIDTH,
            dtype=base.dtype,
            quantization=quantization,
        )
    )
    speed = streams.count * steps / decode_s
    found = {
        "decode_tokens_per_s": speed,
        "prefill_tokens_per_s": streams.count * streams.start / read_s,
        "step_ms": 1e3 * decode_s / steps,
        "limit_tokens_per_s": limit,
        "share_of_limit": speed / limit,
        "timed_tokens": steps,
        "context": streams.start,
        "peak_bytes": peak(device),
        "preemptions": engine.figures().num_preemptions,
    }
    words = (
        f"{speed:,.0f} tokens/s"
        + ("" if base.config.experts else f" ({speed / limit:.0%} of the limit)")
        + ", "
        f"{found['step_ms']:.2f} ms a step; prompts {found['prefill_tokens_per_s']:,.0f} tokens/s"
    )
    report.put(name, found, words)
    with report.trying(f"{name}, profile"):
        report.put(f"{name}, profile", vars(kernels[0]), kernels[0].words)


def _engine(base: LoadedModel, streams: Streams) -> Engine:
    chunk = base.device.prompt_chunk
    engine = Engine(
        base.model,
        base.tokenizer,
        prompt_tokens_per_step=chunk,
        num_requests=streams.count,
        cache_tokens=streams.count * (streams.start + _answer(streams, chunk) + 256) + chunk,
    )
    engine._most_tried = 0  # a step is measured that gives each request one token
    return engine


def _answer(streams: Streams, chunk: int) -> int:
    """Return tokens to ask for: the first ones decode while the last prompts are read."""
    return streams.timed + 2 * -(-streams.count * streams.start // chunk) + streams.count + 8


def _prompts(streams: Streams, vocab: int, seed: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (streams.count, streams.start), generator=generator)
    return [tuple(row) for row in ids.tolist()]


def _decode(
    engine: Engine,
    streams: Streams,
    adapter: Adapter | None,
    sampling: SamplingSettings,
    *,
    seed: int,
    kernels: list[Kernels] | None = None,
) -> tuple[float, float]:
    """Return seconds until every stream has its first token, and of the timed steps behind that.

    kernels: gets those of one more step.
    """
    device = engine._model.embed_tokens.device
    written: set[RequestId] = set()
    failed: list[Output] = []

    def deliver(output: Output) -> None:
        if output.tokens:
            written.add(output.request_id)
        if output.error is not None:
            failed.append(output)

    answer = _answer(streams, engine._scheduler._prompt_tokens)
    sampling = replace(sampling, max_tokens=answer)
    waited(device)
    begun = time.perf_counter()
    ids = [
        engine.add(Request(prompt=prompt, sampling=sampling, adapter=adapter), deliver)
        for prompt in _prompts(streams, engine._model.config.vocab_size, seed)
    ]
    while len(written) < streams.count and not failed:
        engine.step()
    waited(device)
    read_s = time.perf_counter() - begun

    def decode() -> None:
        for _step in range(streams.timed):
            engine.step()

    decode_s = seconds_of(decode, device)
    if kernels is not None:
        with suppress(Exception):  # what was timed is not lost for it
            kernels.append(profiled(engine.step, device))
    running = engine.num_unfinished
    for request_id in ids:
        engine.abort(request_id)
    if failed or running != streams.count:
        reason = failed[0].error if failed else None
        raise RuntimeError(f"{streams.count - running} of {streams.count} ended early") from reason
    return read_s, decode_s


def _finish(engine: Engine) -> None:
    while engine.num_unfinished:
        engine.step()


def few_answers(base: LoadedModel, sampling: SamplingSettings, *, records: bool) -> list[list[int]]:
    """Return the tokens of a few requests that decode together, with recorded steps or without."""
    streams = Streams(count=5, prompt=40, answer=24, timed=24)
    engine = _engine(base, streams)
    if not records:
        engine._graphs = DecodingGraphs(None)
    answers: list[list[int]] = [[] for _stream in range(streams.count)]
    sampling = replace(sampling, max_tokens=streams.answer)
    prompts = _prompts(streams, base.config.vocab_size, seed=3)
    for prompt, answer in zip(prompts, answers, strict=True):
        engine.add(
            Request(prompt=prompt, sampling=sampling),
            lambda output, into=answer: into.extend(output.tokens),
        )
    _finish(engine)
    return answers
