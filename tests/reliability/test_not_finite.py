"""NaN and infinity, wherever they come from, are neither applied nor saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.errors import DataError
from danlu.runs.checkpoints import find_newest, list_checkpoints
from danlu.runs.metrics import read_metrics
from danlu.train.events import StepDone, StepSkipped
from danlu.train.loop import step as step_module
from danlu.train.loop.method import Method
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.trainer import Trainer
from danlu.weights.safetensors import SafetensorsFile
from tests.helpers.figures import figure
from tests.helpers.training.small_run import SmallRun
from tests.helpers.training.trainers import RECIPE

BAD = {"NaN": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf")}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return SmallRun.on_model_in(tmp_path_factory.mktemp("model"), RECIPE)


def into_loss(monkeypatch: pytest.MonkeyPatch, run: Trainer, steps: set[int], value: float) -> None:
    """Let the loss of some steps have this value."""
    real = step_module.loss_backward

    def loss_backward(*values: Any, **options: Any) -> torch.Tensor:
        loss = real(*values, **options)
        return loss * 0 + value if run.progress.step in steps else loss

    monkeypatch.setattr(step_module, "loss_backward", loss_backward)


def into_grad(monkeypatch: pytest.MonkeyPatch, run: Trainer, steps: set[int], value: float) -> None:
    """Let one number of the gradient of some steps have this value."""
    real = step_module.microstep

    def microstep(method: Method, *values: Any, **options: Any) -> torch.Tensor:
        loss = real(method, *values, **options)
        if run.progress.step in steps:
            parameter = method.parameters()[0]
            assert parameter.grad is not None
            parameter.grad.view(-1)[5] = value
        return loss

    monkeypatch.setattr(step_module, "microstep", microstep)


@pytest.mark.parametrize("into", [into_loss, into_grad])
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_such_a_step_is_not_applied_and_names_its_rows(
    small: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: Any, value: float
) -> None:
    before = None
    with small.opened(tmp_path / "run") as run:
        into(monkeypatch, run, {3}, value)
        for event in run.run():
            if isinstance(event, StepDone) and event.step == 3:
                before = run.weights()
            if isinstance(event, StepSkipped):
                assert event.step == 4
                assert before is not None
                assert torch.equal(run.weights(), before)
                assert event.rows
    assert run.progress.skipped == 1
    (skipped,) = (r for r in read_metrics(tmp_path / "run") if r.get("event") == "skipped")
    assert skipped["step"] == 4
    assert skipped["rows"].split(",")
    figure("values that are not finite", 1)


@pytest.mark.parametrize("into", [into_loss, into_grad])
def test_the_third_in_a_row_ends_the_run_with_good_weights_saved(
    small: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: Any
) -> None:
    with small.opened(tmp_path / "run") as run:
        into(monkeypatch, run, {4, 5, 6}, float("nan"))
        with pytest.raises(DataError, match="not finite"):
            list(run.run())
    newest = find_newest(tmp_path / "run").newest
    assert newest is not None
    assert newest.step == 7
    assert_finite(tmp_path / "run")


def test_weights_that_are_not_finite_are_never_saved(
    small: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Optimizer.step

    def step(self: Optimizer, rate: float, *, applied: torch.Tensor) -> None:
        real(self, rate, applied=applied)
        if run.progress.step == 3:
            self.weights()[0][5] = float("nan")

    monkeypatch.setattr(Optimizer, "step", step)
    with small.opened(tmp_path / "run") as run:
        events = run.run()
        while run.progress.step < 4:
            next(events)
        with pytest.raises(DataError) as caught:
            list(events)
    assert "not finite" in caught.value.what
    assert "checkpoint" in caught.value.fix
    newest = find_newest(tmp_path / "run").newest
    assert newest is not None
    assert newest.step == 3
    assert_finite(tmp_path / "run")


def assert_finite(run: Path) -> None:
    """Every number in every checkpoint is finite."""
    checkpoints = list_checkpoints(run)
    assert checkpoints
    for path in (path for each in checkpoints for path in each.path.glob("*.safetensors")):
        file = SafetensorsFile(path)
        assert all(torch.isfinite(file.read(name)).all() for name in file.tensors)
