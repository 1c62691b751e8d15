"""What danlu does on a card, one thing at a time, and what each of them asked of the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from danlu.cli.main import main
from danlu.device.detect import select
from danlu.engine.engine import Engine
from danlu.engine.grammar import Grammar
from danlu.engine.request import Request, SamplingSettings
from danlu.files.committed import committed_folder
from danlu.hub.load import load_model
from danlu.lora.peft_files import load_adapter, write_adapter
from danlu.model.config import Quantization
from danlu.model.qwen3 import Qwen3
from danlu.ops import ops_table, reference
from danlu.ops.choice import _OPERATIONS
from danlu.runs.folder import RunFolder
from danlu.train.events import StepDone
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.tiny_engine import (
    GREEDY,
    random_adapter,
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.helpers.models.variants import ascend_variants
from tests.helpers.training.trainers import RECIPE, STEP_PLAN, trainer
from tests.sim.record import Record, recording

Program = Callable[[Path], Record]
DRAWN = SamplingSettings(temperature=0.8, top_k=20, top_p=0.95, seed=1, max_tokens=6)


@cache
def record_of(name: str) -> Record:
    """Run a program of `PROGRAMS`, once for all tests that ask for it."""
    with TemporaryDirectory() as folder:
        return PROGRAMS[name](Path(folder))


def training(*, full: bool = False, **changes: Any) -> Program:
    """Steps, evaluations and a checkpoint, in bf16 as on a card."""

    def program(folder: Path) -> Record:
        recipe, way = replace(RECIPE, total_steps=4), replace(STEP_PLAN, **changes)
        bf16 = torch.bfloat16
        run = trainer(folder, recipe, full=full, dtype=bf16, device="npu", step_plan=way)
        with recording() as record:
            list(run.run())
        return record

    return program


def the_table(_folder: Path) -> Record:
    """Trying the variants of all operations."""
    with pytest.MonkeyPatch.context() as patch, recording() as record:
        for operation in _OPERATIONS.values():
            patch.setattr(operation, "_chosen", {})
            patch.setattr(operation, "off", {})
        assert not ops_table(torch.device("npu")).off
    return record


def a_fresh_adapter(folder: Path) -> Record:
    """What stands before a run's first step."""
    with recording() as record:
        trainer(folder, device="npu")
    return record


def resuming(*, full: bool) -> Program:
    """A checkpoint that is read, and the steps after it."""

    def program(folder: Path) -> Record:
        recipe = replace(RECIPE, total_steps=4, eval_steps=0)
        with RunFolder.create(folder / "run") as place:
            cut = trainer(folder, recipe, full=full, device="npu", run_folder=place)
            for event in cut.run():
                if isinstance(event, StepDone) and event.step == 4:
                    break
            resumed = trainer(folder, recipe, full=full, device="npu", run_folder=place)
            with recording() as record:
                resumed.resume(3)
                list(resumed.run())
        return record

    return program


def answering(sampling: SamplingSettings, **wanted: Any) -> Program:
    """Answers of a model in bf16."""

    def program(_folder: Path) -> Record:
        model = varied_model(device="npu").to(torch.bfloat16)
        return _answers(model, sampling, **wanted)

    return program


def loading(quantization: Quantization | None) -> Program:
    """A model that is read from its files."""

    def program(folder: Path) -> Record:
        model = write_model_folder(folder / "model")
        with recording() as record:
            _loaded(model, quantization=quantization)
        return record

    return program


def loading_an_adapter(folder: Path) -> Record:
    """An adapter that is read from its files."""
    model = varied_model(device="npu")
    with committed_folder(folder / "adapter") as draft:
        write_adapter(draft, random_adapter(1, model), base_model="tiny")
    device = torch.device("npu")
    with recording() as record:
        load_adapter(folder / "adapter", model.config, device=device, dtype=torch.float32)
    return record


def merging(folder: Path) -> Record:
    """An adapter that is merged; base and result are asked a layer at a time."""
    base = write_model_folder(folder / "model")
    adapter = random_adapter(1, _loaded(base, "cpu"))
    with committed_folder(folder / "adapter") as draft:
        write_adapter(draft, adapter, base_model=str(base))
    words = ["--model", str(base), "--adapter", str(folder / "adapter"), "--device", "npu"]
    with recording() as record:
        assert main(["merge", *words, "--export_dir", str(folder / "merged")]) == 0
    return record


def answering_in(quantization: Quantization) -> Program:
    """Answers of a model in bf16 whose matrices have few bits."""

    def program(folder: Path) -> Record:
        model = write_model_folder(folder / "model")
        return _answers(_loaded(model, quantization=quantization), GREEDY)

    return program


def fused(program: Program) -> Program:
    """A program with Ascend's fused kernels."""

    def with_kernels(folder: Path) -> Record:
        with ascend_variants():
            return program(folder)

    return with_kernels


def readable_twins(_folder: Path) -> Record:
    """The plain formulas that the tests compare with, and their gradients."""
    with recording() as record:
        x = torch.ones(4, 2, 8, device="npu", requires_grad=True)
        offsets = torch.arange(0, 5, 2, device="npu")
        reference.segment_attention(x, x, x, offsets).sum().backward()
        targets = torch.arange(4, device="npu")
        reference.cross_entropy_sum(x[:, 0], targets).backward()
    return record


def _loaded(folder: Path, device: str = "npu", quantization: Quantization | None = None) -> Qwen3:
    return load_model(
        str(folder), device=select(device), dtype=torch.bfloat16, quantization=quantization
    ).model


def _answers(
    model: Qwen3,
    sampling: SamplingSettings,
    *,
    with_adapters: bool = False,
    prompt_logprobs: int | None = None,
) -> Record:
    """Three requests at once; their prompts are read in more steps than one."""
    adapters = [None, random_adapter(1, model), random_adapter(2, model)]
    requests = [
        Request(
            prompt=random_prompt(number, 30),
            sampling=sampling,
            adapter=adapter if with_adapters else None,
            prompt_logprobs=prompt_logprobs,
            end_token_ids=frozenset({tokenizer().control_id("<|im_end|>")}),
        )
        for number, adapter in enumerate(adapters)
    ]
    engine = Engine(model, tokenizer(), prompt_tokens_per_step=50)
    with recording() as record:
        answers = run_all(engine, requests)
    assert all(map(tokens_of, answers)), answers
    return record


PROGRAMS: dict[str, Program] = {
    "a fresh adapter": a_fresh_adapter,
    "LoRA": training(),
    "full training": training(full=True),
    "recomputing": training(recompute="block"),
    "offloading": training(recompute="offload"),
    "resuming LoRA": resuming(full=False),
    "resuming full training": resuming(full=True),
    "loading": loading(None),
    "loading into int8": loading("int8"),
    "loading into int4": loading("int4"),
    "loading an adapter": loading_an_adapter,
    "merging": merging,
    "greedy": answering(GREEDY),
    "drawn": answering(DRAWN),
    "drawn of all": answering(replace(DRAWN, top_k=0, min_p=0.01)),
    "drawn of many": answering(replace(DRAWN, top_k=100, temperature=2.0)),
    "with adapters": answering(GREEDY, with_adapters=True),
    "in int8": answering_in("int8"),
    "in int4": answering_in("int4"),
    "logprobs": answering(replace(GREEDY, logprobs=3)),
    "prompt_logprobs": answering(GREEDY, prompt_logprobs=3),
    "repetition_penalty": answering(replace(DRAWN, repetition_penalty=1.2)),
    "frequency_penalty": answering(replace(DRAWN, frequency_penalty=0.5)),
    "logit_bias": answering(replace(GREEDY, logit_bias=((7, 5.0), (8, -5.0)))),
    "min_tokens": answering(replace(GREEDY, min_tokens=5)),
    "LoRA, fused": fused(training()),
    "full training, fused": fused(training(full=True)),
    "drawn, fused": fused(answering(DRAWN)),
    "with adapters, fused": fused(answering(GREEDY, with_adapters=True)),
    "in int8, fused": fused(answering_in("int8")),
    "in int4, fused": fused(answering_in("int4")),
    "readable twins": readable_twins,
    "the table of operations": the_table,
    "grammar": answering(replace(DRAWN, grammar=Grammar(kind="regex", source="[a-z ]{20}"))),
}
