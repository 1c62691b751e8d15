"""A card with too little memory: the run finds its way, to the same losses, and holds nothing."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.model.recompute import POLICIES
from danlu.plan.job import StepPlan
from danlu.train.events import Adapted, Evaluated, Event, StepDone
from danlu.train.fit.ladder import OutOfMemory
from danlu.train.loop.trainer import Trainer
from tests.helpers.training.trainers import RECIPE, STEP_PLAN, trainer
from tests.sim.memory import MEMORY

WHOLE = replace(STEP_PLAN, micro_batch_tokens=4096)
RECIPE_AT_ONCE = replace(RECIPE, total_steps=4, schedule=replace(RECIPE.schedule, warmup_steps=0))
methods = pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])


def on_card(folder: Path, full: bool, step_plan: StepPlan = WHOLE) -> Trainer:
    return trainer(folder, RECIPE_AT_ONCE, full=full, device="npu", step_plan=step_plan)


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone | Evaluated)]


def peak_of(run: Trainer) -> tuple[int, int, list[Event]]:
    """Run to the end; return the memory before it, the most during it, and its events."""
    gc.collect()
    before = MEMORY.peak = MEMORY.allocated
    events = list(run.run())
    return before, MEMORY.peak, events


@methods
def test_less_and_less_memory_gives_the_same_losses(tmp_path: Path, full: bool) -> None:
    """Budgets from all that a run wants down to where no way is left: the whole ladder."""
    run = on_card(tmp_path / "whole", full)
    held, peak, events = peak_of(run)
    expected = losses(events)
    del run
    ways, ended = [WHOLE], False
    for tenths in (8, 5, 3, 2, 1):
        run = on_card(tmp_path / str(tenths), full)
        gc.collect()
        with MEMORY.limited_to(MEMORY.allocated + (peak - held) * tenths // 10):
            try:
                events = list(run.run())
            except OutOfMemory:
                ended = True
                break
        assert losses(events) == pytest.approx(expected, rel=1e-6)
        assert run.step_plan.micro_batch_tokens <= ways[-1].micro_batch_tokens
        ways.append(run.step_plan)
        del run
    assert ended
    assert len(set(ways)) >= 3
    assert any(way.recompute in POLICIES[1:] for way in ways)


@methods
def test_a_failed_try_leaves_nothing_behind(tmp_path: Path, full: bool) -> None:
    run = on_card(tmp_path / "whole", full)
    held, peak, _events = peak_of(run)
    del run
    gc.collect()
    before = MEMORY.allocated
    run = on_card(tmp_path / "small", full)
    within = []
    gc.disable()  # it must not be luck that frees what a try held
    try:
        with MEMORY.limited_to(MEMORY.allocated + (peak - held) // 2):
            for event in run.run():
                if isinstance(event, Adapted | StepDone):
                    within.append((type(event), MEMORY.allocated))
    finally:
        gc.enable()
    assert within[0][0] is Adapted
    after_tries = {size for kind, size in within if kind is Adapted}
    after_steps = {size for kind, size in within[-4:] if kind is StepDone}
    assert len(after_tries) == 1
    assert len(after_steps) == 1
    # As much as between any two steps: weights, optimizer, the tokens of the step prepared.
    assert after_tries == after_steps
    del run, event
    gc.collect()
    assert torch.npu.memory_allocated() == before
