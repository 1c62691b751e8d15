"""Recomputation on the NPU: the CPU's bits, and what enters the blocks kept on the host."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.model.recompute import POLICIES, Recompute
from danlu.train.events import StepDone
from tests.helpers.training.trainers import RECIPE, STEP_PLAN, trainer
from tests.sim.record import recording


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_every_policy_learns_the_same(tmp_path: Path, policy: Recompute, full: bool) -> None:
    recipe = replace(RECIPE, total_steps=3, eval_steps=0)
    losses = []
    for name, device, way in (("plain", "cpu", "none"), ("other", "npu", policy)):
        step_plan = replace(STEP_PLAN, recompute=way)
        run = trainer(tmp_path / name, recipe, full=full, device=device, step_plan=step_plan)
        with recording() as record:
            losses.append([e.loss for e in run.run() if isinstance(e, StepDone)])
        inside = [
            place for place in record.waits if place.startswith(("model", "lora", "backward"))
        ]
        # The simulated device cannot copy into pinned memory, which would need no wait.
        assert not inside or way == "offload"
    assert losses[0] == losses[1]


def test_offloading_takes_less_of_the_device(tmp_path: Path) -> None:
    recipe = replace(RECIPE, total_steps=1, eval_steps=0)
    peaks = []
    for policy in ("block", "offload"):
        step_plan = replace(STEP_PLAN, recompute=policy, micro_batch_tokens=10_000)
        run = trainer(tmp_path / policy, recipe, device="npu", step_plan=step_plan)
        gc.collect()  # else what other tests left is given back in between
        torch.npu.reset_peak_memory_stats()
        list(run.run())
        peaks.append(torch.npu.max_memory_allocated())
        del run
    assert peaks[1] < peaks[0]
