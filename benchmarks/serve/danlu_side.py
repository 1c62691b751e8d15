"""danlu's engine, in process: `python -m benchmarks.serve.danlu_side MODEL [int8|int4]`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.serve.task import (
    DECODE_PROMPT,
    DECODE_TOKENS,
    PREFILL_TOKENS,
    REPEATS,
    median,
    prompt,
    report,
    seconds,
)
from benchmarks.train.machine import reading_rate
from danlu.device.detect import select
from danlu.device.memory import peak_bytes
from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, RequestId, SamplingSettings
from danlu.hub.load import LoadedModel, load_for_answers
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.model.config import Quantization
from danlu.model.quantized import quantized_bytes

STREAMS = 8
CHAT_TOKENS = 2000
TURN_TOKENS = 150


class Bench:
    """An engine, and requests that never find what an earlier one computed."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.engine = Engine(
            loaded.model,
            loaded.tokenizer,
            prompt_tokens_per_step=loaded.device.prompt_chunk,
            cache_tokens=16_384,
        )
        # Tokens are tried where that is what is measured.
        self._tries, self.engine._most_tried = self.engine._most_tried, 0
        self._seed = 0

    def tried_tokens_gain(self, temperature: float) -> float:
        """Return how much faster one stream is when tokens are tried.

        Random weights soon repeat themselves where the likeliest token is taken, and nearly never
        where it is drawn.
        """
        sampling = SamplingSettings(temperature=temperature, max_tokens=4 * DECODE_TOKENS, seed=1)
        times = []
        for _ in range(REPEATS):
            self._seed += 1
            asked = Request(prompt=tuple(prompt(self._seed, DECODE_PROMPT)), sampling=sampling)
            pair = []
            for most in (0, self._tries):
                self.engine._most_tried = most
                pair.append(self.decode_seconds([asked]))
            times.append(pair[0] / pair[1])
        self.engine._most_tried = 0
        return statistics.median(times)

    def request(
        self,
        length: int = DECODE_PROMPT,
        answer: int = DECODE_TOKENS + 1,
        adapter: Adapter | None = None,
    ) -> Request:
        """Ask for exactly `answer` tokens after a prompt of its own."""
        self._seed += 1
        return ask(prompt(self._seed, length), answer, adapter)

    def finish(self, *requests: Request) -> None:
        """Run requests to their end."""
        for request in requests:
            self.engine.add(request, lambda output: None)
        while self.engine.num_unfinished:
            self.engine.step()

    def decode_seconds(self, requests: Sequence[Request]) -> float:
        """Time what follows once every request has its first token."""
        written: set[RequestId] = set()
        for request in requests:
            self.engine.add(request, lambda output: written.add(output.request_id))
        while len(written) < len(requests):
            self.engine.step()
        return seconds(lambda: self.finish())


def ask(tokens: list[int], answer: int, adapter: Adapter | None = None) -> Request:
    """Make a greedy request for so many tokens."""
    sampling = SamplingSettings(temperature=0.0, max_tokens=answer)
    return Request(prompt=tuple(tokens), sampling=sampling, adapter=adapter)


def measure(loaded: LoadedModel) -> dict[str, Any]:
    """Return all figures."""
    bench = Bench(loaded)
    prefill = median(lambda _n: seconds(lambda: bench.finish(bench.request(PREFILL_TOKENS, 1))))
    # The rate of memory that others use, too, is measured beside each answer.
    turns = [(bench.decode_seconds([bench.request()]), reading_rate()) for _ in range(1 + REPEATS)]
    one = statistics.median(taken for taken, _rate in turns[1:])
    read = DECODE_TOKENS * quantized_bytes(loaded.config, loaded.dtype, loaded.quantization)
    many = median(lambda _n: bench.decode_seconds([bench.request() for _ in range(STREAMS)]))
    adapters = [random_adapter(seed, loaded) for seed in range(4)]

    def with_adapters(number: int) -> float:
        requests = [bench.request(adapter=adapters[i % number]) for i in range(STREAMS)]
        return bench.decode_seconds(requests)

    # In turn, so that a slower minute of the machine is not one side's.
    pairs = [(with_adapters(1), with_adapters(4)) for _ in range(1 + REPEATS)][1:]
    one_adapter, four_adapters = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "prefill_tokens_per_s": PREFILL_TOKENS / prefill,
        "decode_tokens_per_s": DECODE_TOKENS / one,
        "share_of_memorys_rate": statistics.median(read / t / rate for t, rate in turns[1:]),
        "streams_tokens_per_s": STREAMS * DECODE_TOKENS / many,
        "one_adapter_tokens_per_s": STREAMS * DECODE_TOKENS / one_adapter,
        "four_adapters_tokens_per_s": STREAMS * DECODE_TOKENS / four_adapters,
        "turn_two_share": turn_two_share(bench),
        "tried_tokens_where_answers_repeat": bench.tried_tokens_gain(0.0),
        "tried_tokens_where_they_do_not": bench.tried_tokens_gain(1.0),
        **stall(bench),
        "decode_step_ms": step_parts(bench),
    }


def turn_two_share(bench: Bench) -> float:
    """First token of a chat's second turn over that of its first, 2,000 tokens long."""
    shares = []
    for seed in (1, 2, 3):
        chat = prompt(10_000 + seed, CHAT_TOKENS)
        first = seconds(lambda chat=chat: bench.finish(ask(chat, 1)))
        longer = chat + prompt(20_000 + seed, TURN_TOKENS)
        shares.append(seconds(lambda longer=longer: bench.finish(ask(longer, 1))) / first)
    return statistics.median(shares)


def stall(bench: Bench) -> dict[str, float]:
    """The longest wait of running streams while a long prompt is read, and a chunk's time."""
    engine = bench.engine
    written: list[Output] = []
    for _ in range(2):
        engine.add(bench.request(answer=40), written.append)
    for _ in range(5):
        engine.step()
    read: list[Output] = []
    engine.add(bench.request(CHAT_TOKENS, 1), read.append)
    waits: list[float] = []
    while not read:
        written.clear()
        waits.append(seconds(lambda: step_until(engine, written)))
    bench.finish()
    chunk = engine._scheduler._prompt_tokens
    alone = seconds(lambda: bench.finish(bench.request(chunk, 1)))
    return {"longest_wait_s": max(waits), "prompt_chunk_s": alone}


def step_until(engine: Engine, written: list[Output]) -> None:
    """Step until there is an output."""
    while not written:
        engine.step()


def step_parts(bench: Bench) -> dict[str, float]:
    """Where one stream's decode step goes, in milliseconds. A recorded step is "forward" whole."""
    engine = bench.engine
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*words: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*words, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - started

        return run

    engine._scheduler.plan = timed("plan", engine._scheduler.plan)  # type: ignore[method-assign]
    engine._forward = timed("forward", engine._forward)  # type: ignore[method-assign]
    engine._take = timed("choose", engine._take)  # type: ignore[method-assign]
    engine.add(bench.request(), lambda output: None)
    engine.step()
    spent.clear()
    whole = seconds(lambda: bench.finish())
    for name in ("plan", "_forward", "_take"):
        vars(engine._scheduler if name == "plan" else engine).pop(name)
    parts = {
        "forward": spent["forward"],
        "choosing": spent["choose"],
        "scheduling": spent["plan"],
        "rest": whole - spent["forward"] - spent["choose"] - spent["plan"],
    }
    return {name: 1e3 * value / DECODE_TOKENS for name, value in parts.items()}


def random_adapter(seed: int, loaded: LoadedModel) -> Adapter:
    """Make an adapter of rank 8 on all projections."""
    device = loaded.device.torch_device
    adapter = Adapter(LoraConfig(), loaded.config, device=device, dtype=loaded.dtype)
    generator = torch.Generator().manual_seed(seed)
    for _layer, _name, a, b in adapter.tensors():
        a.copy_(torch.randn(a.shape, generator=generator) * 0.02)
        b.copy_(torch.randn(b.shape, generator=generator) * 0.02)
    return adapter


def main() -> None:
    """Measure and report."""
    quantization: Quantization | None = None
    if len(sys.argv) > 2:
        quantization = "int8" if sys.argv[2] == "int8" else "int4"
    before = peak_bytes(torch.device("cpu"))
    loaded = load_for_answers(
        sys.argv[1], device=select("cpu"), dtype=None, quantization=quantization
    )
    memory = {
        "weights_mb": quantized_bytes(loaded.config, loaded.dtype, quantization) / 1e6,
        "most_while_loading_mb": (peak_bytes(torch.device("cpu")) - before) / 1e6,
    }
    report({**measure(loaded), **memory})


if __name__ == "__main__":
    main()
