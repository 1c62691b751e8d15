"""Training on the NPU: the CPU's numbers to the last bit, resumed or not; nothing left behind."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.data.tokens.pack import Batch, pack
from danlu.runs.checkpoints import find_newest
from danlu.runs.folder import RunFolder
from danlu.train.events import Evaluated, StepDone
from danlu.train.loop import batches
from tests.helpers.training.trainers import RECIPE, trainer
from tests.sim.record import recording

# Both methods and both precisions, each once.
one_each = pytest.mark.parametrize(
    "full, dtype", [(False, torch.float32), (True, torch.bfloat16)], ids=["lora-fp32", "full-bf16"]
)
methods = pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)


@methods
@every_dtype
def test_a_run_is_that_of_the_cpu(tmp_path: Path, full: bool, dtype: torch.dtype) -> None:
    """LoRA with dropout, and full training: each step, each evaluation, the weights at the end."""
    numbers, weights = {}, {}
    for device in ("cpu", "npu"):
        run = trainer(tmp_path / device, full=full, dtype=dtype, device=device)
        events = [e for e in run.run() if isinstance(e, StepDone | Evaluated)]
        numbers[device] = [(e.loss, getattr(e, "grad_norm", None)) for e in events]
        weights[device] = run.weights()
    assert len(numbers["npu"]) == RECIPE.total_steps + 3
    assert numbers["npu"] == numbers["cpu"]
    assert torch.equal(weights["npu"], weights["cpu"])


@one_each
def test_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, full: bool, dtype: torch.dtype
) -> None:
    whole = trainer(tmp_path / "a", full=full, dtype=dtype, device="npu")
    list(whole.run())
    with RunFolder.create(tmp_path / "b" / "run") as folder:
        cut = trainer(tmp_path / "b", full=full, dtype=dtype, device="npu", run_folder=folder)
        for event in cut.run():
            if isinstance(event, StepDone) and event.step == 8:
                break  # as if killed: steps 7 and 8 are lost, checkpoint-6 is there
        resumed = trainer(tmp_path / "b", full=full, dtype=dtype, device="npu", run_folder=folder)
        newest = find_newest(folder.path).newest
        assert newest is not None
        assert newest.step == 6
        resumed.resume(newest.step)
        list(resumed.run())
    assert torch.equal(whole.weights(), resumed.weights())


@one_each
def test_its_own_dtype_reaches_the_device(tmp_path: Path, full: bool, dtype: torch.dtype) -> None:
    run = trainer(tmp_path, full=full, dtype=dtype, device="npu")
    with recording() as record:
        for event in run.run():
            if isinstance(event, Evaluated):
                break  # four steps and an evaluation
    assert dtype in record.dtypes


@methods
def test_a_step_waits_once_with_everything_queued(tmp_path: Path, full: bool) -> None:
    recipe = replace(RECIPE, eval_steps=0, save_steps=0)
    run = trainer(tmp_path, recipe, full=full, device="npu")
    with recording() as record:
        for event in run.run():
            if isinstance(event, StepDone):
                # The loss and the gradient's norm together, once the update is on its way.
                assert record.waits == {"train/loop/step.py:optimizer_step": 1}
                assert not record.since_wait
            record.clear()


@methods
def test_a_micro_batch_is_one_upload_that_nobody_waits_for(tmp_path: Path, full: bool) -> None:
    recipe = replace(RECIPE, save_steps=0)
    run = trainer(tmp_path, recipe, full=full, device="npu")
    most = 0
    with recording() as record:
        for event in run.run():
            if isinstance(event, StepDone | Evaluated):
                # Of a micro-batch: embeddings, cosines, sines, supervised rows.
                count = record.operations["aten::index_select"] // 4
                assert record.uploads == {"train/loop/batches.py:upload": count}
                assert not record.pageable
                most = max(most, count)
            record.clear()
    assert most > 1


def test_the_next_step_is_packed_while_the_device_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the update has been queued and before the host waits for the figures."""
    run = trainer(tmp_path, replace(RECIPE, eval_steps=0, save_steps=0), device="npu")
    moments = []

    def packed(*values: Any) -> list[Batch]:
        update_is_queued = record.operations["aten::expm1"] > 0
        moments.append((run.progress.step, update_is_queued, record.waits.total()))
        return pack(*values)

    monkeypatch.setattr(batches, "pack", packed)
    with recording() as record:
        for _event in run.run():
            record.clear()
    # The first step finds nothing prepared; the last one has nothing to prepare. The evaluation at
    # the end packs for itself.
    ahead = [(step, True, 0) for step in range(RECIPE.total_steps - 1)]
    assert moments == [(0, False, 0), *ahead, (RECIPE.total_steps, False, 0)]


@methods
def test_memory_is_given_back(tmp_path: Path, full: bool) -> None:
    gc.collect()
    before = torch.npu.memory_allocated()
    run = trainer(tmp_path, full=full, device="npu")
    list(run.run())
    assert torch.npu.memory_allocated() > before
    del run
    gc.collect()
    assert torch.npu.memory_allocated() == before


def test_memory_does_not_grow_from_step_to_step(tmp_path: Path) -> None:
    recipe = replace(RECIPE, eval_steps=0, save_steps=0)
    run = trainer(tmp_path, recipe, device="npu")
    held = []
    for event in run.run():
        if isinstance(event, StepDone):
            held.append(torch.npu.memory_allocated())
    assert held[1:] == held[1:2] * (len(held) - 1)
