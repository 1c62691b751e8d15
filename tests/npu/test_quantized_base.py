"""Training on a base in few bits on an NPU: the CPU's numbers, and the memory that was planned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from danlu.device.weight_forms import floats_bytes
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import LoraConfig
from danlu.model.config import WeightForm
from danlu.model.layout import PROJECTIONS
from danlu.model.qwen3 import replace_weight
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops import QuantizedWeight
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.quantized import INT8_LINEAR
from danlu.plan.job import Job, StepPlan
from danlu.plan.memory import layer_bytes, memory_of, piece_bytes
from danlu.runs.folder import RunFolder
from danlu.train.events import StepDone
from danlu.train.loop.method import LoraMethod
from danlu.train.loop.trainer import Trainer
from tests.helpers.models.variants import ascend_variants, taken
from tests.helpers.training.trainers import RECIPE, STEP_PLAN, loaded_tiny, random_rows
from tests.npu.test_memory_plan import FUSED, SIZES, allocated, measured
from tests.sim.memory import MEMORY

every_form = pytest.mark.parametrize("form", ["int8", "int4", "nf4"])
# Widths that all forms can have.
WIDE = {"intermediate_size": 128}


def quantised(base: LoadedModel, form: WeightForm) -> LoadedModel:
    for layer in base.model.layers:
        for name in PROJECTIONS:
            matrix = getattr(layer, name).detach()
            assert form != "fp8"
            weight = QuantizedWeight(matrix, form, matrix.device)
            weight.fill(matrix)
            replace_weight(layer, name, weight)
    return base


def losses(folder: Path, form: WeightForm, device: str, dtype: torch.dtype) -> list[float]:
    base = quantised(loaded_tiny(folder / "model", dtype, device, **WIDE), form)
    run = Trainer(
        method=LoraMethod.fresh(base, LoraConfig(r=4, lora_alpha=8), seed=1),
        recipe=replace(RECIPE, total_steps=4),
        step_plan=STEP_PLAN,
        train_rows=random_rows(23),
        eval_rows=random_rows(4, seed=1),
        run_folder=RunFolder.create(folder / "run"),
    )
    return [event.loss for event in run.run() if isinstance(event, StepDone)]


@pytest.fixture
def by_floats() -> Iterator[None]:
    """Both devices multiply with floats made of the weights, and keep them alike."""
    with (
        taken(INT8_LINEAR, "floats", "cpu"),
        taken(INT8_LINEAR, "floats", "npu"),
        taken(INT4_LINEAR, "floats", "cpu"),
        taken(INT4_LINEAR, "floats", "npu"),
    ):
        yield


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_steps_are_those_of_the_cpu(
    tmp_path: Path, form: WeightForm, dtype: torch.dtype, by_floats: None
) -> None:
    on_cpu, on_npu = (losses(tmp_path / d, form, d, dtype) for d in ("cpu", "npu"))
    assert len(on_cpu) == 4
    assert on_npu == on_cpu


@every_form
def test_steps_with_ascends_kernels_are_nearly_the_same(
    tmp_path: Path, form: WeightForm, by_floats: None
) -> None:
    on_cpu = losses(tmp_path / "cpu", form, "cpu", torch.bfloat16)
    with ascend_variants():
        on_npu = losses(tmp_path / "npu", form, "npu", torch.bfloat16)
    assert on_npu == pytest.approx(on_cpu, rel=0.01)


@every_form
def test_a_weight_that_becomes_floats_takes_what_was_planned(
    form: Literal["int8", "int4", "nf4"], fused: None
) -> None:
    like = torch.randn(512, 1024).bfloat16().to("npu")
    weight = QuantizedWeight(like, form, like.device)
    weight.fill(like)
    dy = like.new_ones(1, 512)
    weight.gradient(dy)  # what is made once is there then
    before = MEMORY.peak = allocated()
    weight.gradient(dy)
    taken_bytes = MEMORY.peak - before
    planned = floats_bytes(form, like.numel(), kind="npu", number_bytes=2)
    assert 0.7 * planned <= taken_bytes <= 1.01 * planned


@every_form
@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(policy, marks=() if policy == "gate_up" else pytest.mark.soak)
        for policy in POLICIES
    ],
)
def test_memory_is_what_was_planned(
    tmp_path: Path, policy: Recompute, form: WeightForm, fused: None
) -> None:
    lora = LoraConfig(r=4)

    def method_of(base: LoadedModel) -> LoraMethod:
        return LoraMethod.fresh(quantised(base, form), lora, seed=1)

    way = StepPlan(micro_batch_tokens=10_000, chunk_rows=64, recompute=policy)
    peaks, shape, config = measured(tmp_path / "model", method_of, way, SIZES["mlp"])
    ranks = dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=config, number_bytes=2, ranks=ranks, base_form=form)
    planned = layer_bytes(job, policy, FUSED, shape)
    # A layer may take most where no piece of a weight is floats.
    assert 0.95 * planned <= peaks.layer <= planned + piece_bytes(job, FUSED)
    memory = memory_of(job, way, shape, FUSED)
    assert peaks.whole <= memory.activations + memory.working + 64 * 10
    # In `measured` the weights are quantised when the method is made.
    assert peaks.weights + peaks.trained == pytest.approx(memory.weights + memory.trained, rel=0.01)
