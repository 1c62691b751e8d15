"""What a user would miss: resumed runs that differ, packing that changes results, NaN applied."""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.errors import CapacityError, DataError
from danlu.files import disk
from danlu.lora.adapter import Adapter, Working
from danlu.runs.checkpoints import find_newest, list_checkpoints
from danlu.runs.folder import RunFolder
from danlu.runs.metrics import read_metrics
from danlu.train.events import Evaluated, NotSaved, StepDone, StepSkipped, StoppedEarly
from danlu.train.loop import step as step_module
from danlu.train.loop import trainer as trainer_module
from danlu.train.loop.evaluate import Evaluation
from danlu.train.loop.trainer import Interrupted, Trainer
from tests.helpers.training.trainers import RECIPE, STEP_PLAN, trainer

AT_ONCE = replace(RECIPE.schedule, warmup_steps=0)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, full: bool, dtype: torch.dtype
) -> None:
    whole = trainer(tmp_path / "a", full=full, dtype=dtype)
    list(whole.run())
    with RunFolder.create(tmp_path / "b" / "run") as folder:
        cut = trainer(tmp_path / "b", full=full, dtype=dtype, run_folder=folder)
        for event in cut.run():
            if isinstance(event, StepDone) and event.step == 8:
                break  # as if killed: steps 7 and 8 are lost, checkpoint-6 is there
        resumed = trainer(tmp_path / "b", full=full, dtype=dtype, run_folder=folder)
        newest = find_newest(folder.path).newest
        assert newest is not None
        assert newest.step == 6
        resumed.resume(newest.step)
        list(resumed.run())
    assert torch.equal(whole.weights(), resumed.weights())
    losses = [[r.get("loss") for r in read_metrics(p)] for p in (tmp_path / "a/run", folder.path)]
    assert losses[0] == losses[1]


def test_update_does_not_depend_on_the_packing(tmp_path: Path) -> None:
    # A few updates only: Adam divides by the gradient's size, so rounding grows with the steps.
    recipe = replace(RECIPE, total_steps=2, schedule=AT_ONCE, eval_steps=0)
    finals, losses = [], []
    for name, tokens in (("one", 10_000), ("few", 64), ("alone", 1)):
        step_plan = replace(STEP_PLAN, micro_batch_tokens=tokens)
        run = trainer(tmp_path / name, recipe, step_plan=step_plan)
        losses.append([event.loss for event in run.run() if isinstance(event, StepDone)])
        finals.append(run.weights())
    for other, loss in zip(finals[1:], losses[1:], strict=True):
        torch.testing.assert_close(finals[0], other, atol=1e-6, rtol=0)
        assert loss == pytest.approx(losses[0], rel=1e-6)


def test_an_adapter_is_made_bf16_once_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many micro-batches a step has; the next one takes the new numbers."""
    made: list[torch.Tensor] = []
    real = Adapter.working

    def working(adapter: Adapter, dtype: torch.dtype) -> Mapping[tuple[int, str], Working]:
        copies = real(adapter, dtype)
        made.append(copies[0, "qkv_proj"].b.parts[0].clone())
        return copies

    monkeypatch.setattr(Adapter, "working", working)
    recipe = replace(RECIPE, total_steps=3, schedule=AT_ONCE, eval_steps=0, save_steps=0)
    step_plan = replace(STEP_PLAN, micro_batch_tokens=1)
    list(trainer(tmp_path, recipe, dtype=torch.bfloat16, step_plan=step_plan).run())
    assert len(made) == 3 + 1  # the last for the evaluation at the end
    assert not made[0].any()  # as a fresh adapter is
    assert made[1].any()
    assert not torch.equal(made[1], made[2])


def test_loss_falls_and_is_evaluated_on_the_held_out_rows(tmp_path: Path) -> None:
    recipe = replace(RECIPE, total_steps=40, eval_on_start=True, eval_steps=20)
    events = list(trainer(tmp_path, recipe, dropout=0.0).run())
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert [event.step for event in events if isinstance(event, Evaluated)] == [0, 20, 40]


def poison(run: Trainer, steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    real = step_module.loss_backward

    def loss_backward(model, linear, hidden, targets, **options):  # type: ignore[no-untyped-def]
        loss = real(model, linear, hidden, targets, **options)
        return loss * float("nan") if run.progress.step in steps else loss

    monkeypatch.setattr(step_module, "loss_backward", loss_backward)


def test_a_step_that_is_not_finite_leaves_the_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path)
    poison(run, {3}, monkeypatch)
    before = None
    for event in run.run():
        if isinstance(event, StepDone) and event.step == 3:
            before = run.weights()
        if isinstance(event, StepSkipped):
            assert event.step == 4
            assert before is not None
            assert torch.equal(before, run.weights())
    assert run.progress.skipped == 1
    assert run.progress.step == RECIPE.total_steps


def test_three_steps_in_a_row_stop_the_run_with_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path)
    poison(run, {4, 5, 6}, monkeypatch)
    with pytest.raises(DataError) as caught:
        list(run.run())
    assert caught.value.exit_code == 5
    assert "checkpoint-7" in caught.value.fix
    newest = find_newest(tmp_path / "run").newest
    assert newest is not None
    assert newest.step == 7
    assert torch.isfinite(run.weights()).all()


def test_a_stop_saves_the_last_completed_step(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    events = run.run()
    while run.progress.step < 5:
        next(events)
    run.request_stop()
    with pytest.raises(Interrupted):
        list(events)
    newest = find_newest(tmp_path / "run").newest
    assert newest is not None
    assert newest.step == 5


def test_the_best_weights_are_saved_when_found_and_restored_at_the_end(tmp_path: Path) -> None:
    # A rate this high makes later evaluations worse than the first.
    recipe = replace(
        RECIPE,
        schedule=replace(RECIPE.schedule, peak=0.5),
        total_steps=16,
        eval_steps=2,
        save_steps=0,
        save_total_limit=1,
        load_best_model_at_end=True,
    )
    run = trainer(tmp_path, recipe, dropout=0.0)
    evaluations = [event for event in run.run() if isinstance(event, Evaluated)]
    best = min(evaluations, key=lambda event: event.loss)
    assert best.step < 16
    assert run.progress.best_step == best.step
    assert best.step in [checkpoint.step for checkpoint in list_checkpoints(tmp_path / "run")]
    again = next(iter(run._evaluate()))
    assert isinstance(again, Evaluated)
    assert again.loss == pytest.approx(best.loss, rel=1e-6)


def test_an_evaluation_that_is_no_number_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in float16, where a row's numbers leave its range though the weights are good."""
    found, computed = iter([math.nan, 2.0, math.inf, 3.0]), trainer_module.evaluate

    def evaluate(*arguments: Any, **named: Any) -> Evaluation:
        loss = next(found)
        return replace(computed(*arguments, **named), loss=loss, loss_per_sample=loss)

    monkeypatch.setattr(trainer_module, "evaluate", evaluate)
    recipe = replace(RECIPE, total_steps=8, eval_steps=2, save_steps=0, load_best_model_at_end=True)
    run = trainer(tmp_path, recipe)
    evaluations = [event for event in run.run() if isinstance(event, Evaluated)]
    assert [event.is_best for event in evaluations] == [False, True, False, False]
    assert (run.progress.best_step, run.progress.best_loss) == (4, 2.0)


def full_disk(monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    """Let no checkpoint of these names be written."""
    real = disk.Disk.create

    def create(self: disk.Disk, path: Path) -> Any:
        if any(f".{name}.draft" in str(path) for name in names):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, path)

    monkeypatch.setattr(disk.Disk, "create", create)


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, {"checkpoint-6"})
    events = list(trainer(tmp_path).run())
    assert [e.step for e in events if isinstance(e, NotSaved)] == [6]
    saved = [c.step for c in list_checkpoints(tmp_path / "run")]
    assert {3, 9, 12} <= set(saved)
    assert 6 not in saved


def test_two_failed_saves_in_a_row_stop_with_the_last_one_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, {"checkpoint-6", "checkpoint-8", "checkpoint-9"})
    with pytest.raises(CapacityError):
        list(trainer(tmp_path).run())
    newest = find_newest(tmp_path / "run").newest
    assert newest is not None
    assert newest.step in (3, 4)


def test_metrics_that_did_not_fit_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = disk.Disk.write, []

    def write(self: disk.Disk, file: Any, data: Any) -> None:
        if "metrics.jsonl" in str(file.name) and 3 <= run.progress.step < 6:
            refused.append(1)
            real(self, file, bytes(data)[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, file, data)

    run = trainer(tmp_path)
    monkeypatch.setattr(disk.Disk, "write", write)
    list(run.run())
    assert refused
    steps = [record["step"] for record in read_metrics(tmp_path / "run") if "loss" in record]
    assert steps == list(range(1, RECIPE.total_steps + 1))


def test_it_stops_early_when_nothing_gets_better(tmp_path: Path) -> None:
    recipe = replace(
        RECIPE,
        schedule=replace(RECIPE.schedule, peak=0.5),
        total_steps=60,
        eval_steps=2,
        save_steps=0,
        early_stopping_patience=3,
        load_best_model_at_end=True,
    )
    run = trainer(tmp_path, recipe, dropout=0.0)
    events = list(run.run())
    (stop,) = (event for event in events if isinstance(event, StoppedEarly))
    assert stop.step == stop.best_step + 6 == run.progress.step < 60
    # Only the best and the last are left of those that were saved for being the best.
    assert [c.step for c in list_checkpoints(tmp_path / "run")] == [stop.best_step, stop.step]


def test_an_evaluation_that_was_interrupted_is_made_up_for(tmp_path: Path) -> None:
    """Stopped inside the evaluation after step 4: the resumed run has it, as an undisturbed one."""
    whole = trainer(tmp_path / "a")
    list(whole.run())
    with RunFolder.create(tmp_path / "b" / "run") as folder:
        cut = trainer(tmp_path / "b", run_folder=folder)
        events = cut.run()
        while cut.progress.step < 4:
            next(events)
        cut.request_stop()
        with pytest.raises(Interrupted):
            list(events)
        resumed = trainer(tmp_path / "b", run_folder=folder)
        resumed.resume(4)
        list(resumed.run())
    evaluations = [
        [r["eval_loss"] for r in read_metrics(tmp_path / name / "run") if "eval_loss" in r]
        for name in ("a", "b")
    ]
    assert evaluations[0] == evaluations[1]
    assert len(evaluations[0]) == 3
