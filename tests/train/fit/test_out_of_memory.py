"""Memory runs out at chosen places: the run goes on, and learns what it would have learned."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.errors import CapacityError
from danlu.runs.checkpoints import find_newest
from danlu.runs.metrics import read_metrics
from danlu.train.events import Adapted, Evaluated, Event, StepDone
from danlu.train.fit.ladder import OutOfMemory
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.trainer import Interrupted
from tests.helpers.training.failing_allocator import Moment, failing_allocator, full_card, full_host
from tests.helpers.training.trainers import RECIPE, STEP_PLAN, trainer

# Steps of about 90 tokens, the longest example 29: three rungs down to single examples.
WHOLE = replace(STEP_PLAN, micro_batch_tokens=4096)
SHORT = replace(
    RECIPE, total_steps=4, eval_steps=2, schedule=replace(RECIPE.schedule, warmup_steps=0)
)


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone | Evaluated)]


def changes(events: list[Event]) -> list[Adapted]:
    return [event for event in events if isinstance(event, Adapted)]


@pytest.fixture(scope="module")
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, list[float], torch.Tensor]:
    """Whether everything is trained; the losses and the weights of a run with enough memory."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = trainer(folder, SHORT, full=request.param, step_plan=WHOLE)
    return request.param, losses(list(run.run())), run.weights()


# How a device or the host says that it is full has nothing to do with where it is.
PLACES: dict[str, tuple[Callable[[Moment], bool], Callable[[], None], bool]] = {
    "many tokens": (lambda at: at.tokens > 50, full_card, False),
    "weak policy": (
        lambda at: at.learns and at.recompute in ("none", "selective"), full_host, True
    ),
    "evaluation": (lambda at: not at.learns and at.tokens > 30, full_card, False),
    # The first try, the second, the third.
    "again and again": (lambda at: at.number in (0, 1, 2), full_host, True),
    "in the middle": (lambda at: at.number == 3, full_card, True),
}  # fmt: skip
# Where every weight is trained, what takes longest runs before merging.
LONG = {"full-weak policy", "full-evaluation", "full-again and again"}


@pytest.mark.parametrize(
    ("undisturbed", "is_full", "fail", "in_backward"),
    [
        pytest.param(
            full, *PLACES[place], id=f"{kind}-{place}",
            marks=[pytest.mark.soak] * (f"{kind}-{place}" in LONG),
        )
        for full, kind in ((False, "lora"), (True, "full"))
        for place in PLACES
    ],
    indirect=["undisturbed"],
)  # fmt: skip
def test_the_losses_are_those_of_a_run_with_enough_memory(
    tmp_path: Path,
    undisturbed: tuple[bool, list[float], torch.Tensor],
    is_full: Callable[[Moment], bool],
    fail: Callable[[], None],
    in_backward: bool,
) -> None:
    full, expected, weights = undisturbed
    run = trainer(tmp_path, SHORT, full=full, step_plan=WHOLE)
    with failing_allocator(is_full, fail=fail, in_backward=in_backward) as failed:
        events = list(run.run())
    assert failed
    assert len(changes(events)) == len(failed)
    assert run.step_plan == changes(events)[-1].step_plan
    assert losses(events) == pytest.approx(expected, rel=1e-6)
    # Adam divides by the gradient's size, so rounding grows; an update's size is 5e-3.
    torch.testing.assert_close(run.weights(), weights, atol=5e-5, rtol=0)
    recorded = [r for r in read_metrics(tmp_path / "run") if r.get("event") == "out_of_memory"]
    assert [r["step"] for r in recorded] == [change.step for change in changes(events)]


@pytest.mark.parametrize("each", [pytest.param(True, marks=pytest.mark.soak), False])
def test_any_one_microstep_may_fail(tmp_path: Path, each: bool) -> None:
    """The first microstep, one in the middle of a step, of an evaluation, the last one."""
    small = replace(SHORT, total_steps=2)
    few = replace(STEP_PLAN, micro_batch_tokens=40)
    seen: list[Moment] = []
    with failing_allocator(lambda at: seen.append(at) is not None):
        expected = losses(list(trainer(tmp_path / "whole", small, step_plan=few).run()))
    evaluation = next(number for number, moment in enumerate(seen) if not moment.learns)
    chosen = sorted({0, 1, evaluation, len(seen) - 1})
    for number in range(len(seen)) if each else chosen:
        run = trainer(tmp_path / str(number), small, step_plan=few)
        with failing_allocator(lambda at, n=number: at.number == n, in_backward=True):
            events = list(run.run())
        assert len(changes(events)) == 1
        assert changes(events)[0].moment == ("step" if seen[number].learns else "evaluation")
        assert losses(events) == pytest.approx(expected, rel=1e-6)


def test_what_was_found_stays(tmp_path: Path) -> None:
    run = trainer(tmp_path, step_plan=WHOLE)
    with failing_allocator(lambda at: at.tokens > 60) as failed:
        events = list(run.run())
    assert len(failed) <= 2
    assert {change.step for change in changes(events)} == {1}
    assert len(losses(events)) == RECIPE.total_steps + 3


def test_at_the_end_of_the_ladder_the_last_step_is_saved(tmp_path: Path) -> None:
    run = trainer(tmp_path, step_plan=WHOLE)
    with failing_allocator(lambda at: at.step >= 6), pytest.raises(OutOfMemory) as caught:
        list(run.run())
    assert caught.value.step == 6
    assert caught.value.step_plan.recompute == "block"
    newest = find_newest(tmp_path / "run").newest
    assert newest is not None
    assert newest.step == 5


def test_a_stop_between_two_tries_saves_the_last_step(tmp_path: Path) -> None:
    run = trainer(tmp_path, step_plan=WHOLE)
    events = run.run()
    with failing_allocator(lambda at: at.step == 6 and at.tokens > 40):
        while not isinstance(next(events), Adapted):
            pass
        run.request_stop()
        with pytest.raises(Interrupted):
            list(events)
    newest = find_newest(tmp_path / "run").newest
    assert newest is not None
    assert newest.step == run.progress.step == 5


def test_an_update_under_way_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = trainer(tmp_path), Optimizer.step

    def step(self: Optimizer, rate: float, *, applied: torch.Tensor) -> None:
        real(self, rate, applied=applied)
        if run.progress.step == 7:
            full_card()

    monkeypatch.setattr(Optimizer, "step", step)
    with pytest.raises(CapacityError, match="being updated") as caught:
        list(run.run())
    assert "--resume_from_checkpoint true" in caught.value.fix
    newest = find_newest(tmp_path / "run").newest
    assert newest is not None
    assert newest.step == 6  # what is in memory is half of a step further


def test_other_trouble_ends_the_run_at_once(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("the device has fallen off the bus")

    run = trainer(tmp_path)
    breaking = failing_allocator(lambda at: at.number == 3, fail=broken)
    with breaking as failed, pytest.raises(RuntimeError, match="bus"):
        list(run.run())
    assert len(failed) == 1


def test_a_run_that_adapted_gives_its_memory_back_at_once(tmp_path: Path) -> None:
    """Whoever comes next, such as the report, must not have to wait for the garbage collector."""
    run = trainer(tmp_path, SHORT, step_plan=WHOLE)
    with failing_allocator(lambda at: at.tokens > 50):
        list(run.run())
    gone = weakref.ref(run)
    gc.disable()
    try:
        del run
        assert gone() is None
    finally:
        gc.enable()
