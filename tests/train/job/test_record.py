"""How a recorded run computed, at its start and after changes."""

from __future__ import annotations

import pytest

from danlu.errors import DataError
from danlu.plan.job import StepPlan
from danlu.runs.manifest import ArithmeticRecord, BaseRecord, ChangeRecord, RunManifest
from danlu.train.events import Adapted
from danlu.train.job.record import arithmetic_of, going_on, with_change

RUN = RunManifest(
    state="running",
    base=BaseRecord(name="starter", path="/models/starter", fingerprint="abc"),
    template="qwen3",
    enable_thinking=None,
    arithmetic=ArithmeticRecord(threads=2, micro_batch_tokens=100),
)
HALF = StepPlan(micro_batch_tokens=50, chunk_rows=64, recompute="none")
LESS = StepPlan(micro_batch_tokens=50, chunk_rows=64, recompute="block")


def adapted(step: int, step_plan: StepPlan) -> Adapted:
    return Adapted(step=step, moment="step", step_plan=step_plan)


def test_a_run_of_an_older_version_computed_in_the_one_way_it_knew() -> None:
    known = StepPlan(micro_batch_tokens=100, chunk_rows=256, recompute="none")
    assert arithmetic_of(RUN) == arithmetic_of(RUN, 7) == known


def test_changes_count_from_their_step_on() -> None:
    run = with_change(with_change(RUN, adapted(3, HALF)), adapted(5, LESS))
    assert arithmetic_of(run) == arithmetic_of(run, 2) == arithmetic_of(RUN)
    assert [arithmetic_of(run, step) for step in (3, 4, 5, 6)] == [HALF, HALF, LESS, LESS]
    resumed = going_on(RUN, run, 4)
    assert [change.step for change in resumed.arithmetic.changes] == [3]
    assert "changes" not in going_on(RUN, run, 2).arithmetic.model_dump()


def test_the_same_step_may_change_more_than_once() -> None:
    run = with_change(with_change(RUN, adapted(3, HALF)), adapted(3, LESS))
    assert all(isinstance(change, ChangeRecord) for change in run.arithmetic.changes)
    assert arithmetic_of(run, 3) == LESS


def test_a_run_that_does_not_say_how_it_computed() -> None:
    with pytest.raises(DataError, match=r"run\.json") as caught:
        arithmetic_of(RUN.changed(arithmetic={"threads": 2}))
    assert "micro_batch_tokens" in caught.value.why
