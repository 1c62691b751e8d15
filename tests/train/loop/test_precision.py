"""float16 trains with a loss scale that survives overflow and resume; --fp16 prefers bfloat16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.device.detect import select
from danlu.errors import UsageError
from danlu.runs.metrics import read_metrics
from danlu.train.events import StepDone, StepSkipped
from danlu.train.loop import precision
from danlu.train.loop import step as step_module
from danlu.train.loop.precision import FIRST_SCALE, GROWTH_STEPS, LossScale, choose_precision
from danlu.train.settings import TrainSettings
from tests.helpers.training.trainers import RECIPE, trainer

CPU = select("cpu")


@pytest.mark.parametrize(
    ("given", "device", "dtype", "says"),
    [
        ({"fp16": True}, {"has_fast_bf16": True}, torch.bfloat16, "computing in bfloat16"),
        ({"fp16": True}, {"has_fast_bf16": False, "has_fast_fp16": True}, torch.float16, ""),
        ({"fp16": True}, {"has_fast_bf16": False}, torch.float32, "float32"),
        ({"fp16": True, "dtype": "float16"}, {"has_fast_bf16": True}, torch.float16, ""),
        ({"bf16": True}, {"has_fast_bf16": False}, torch.bfloat16, ""),
        ({}, {"has_fast_bf16": True}, torch.bfloat16, ""),
    ],
)
def test_what_is_asked_for_and_what_the_device_has(
    given: dict[str, object], device: dict[str, bool], dtype: torch.dtype, says: str
) -> None:
    chosen = choose_precision(TrainSettings(**given), replace(CPU, **device))  # type: ignore[arg-type]
    assert chosen.dtype == dtype
    assert says in chosen.note
    assert bool(says) == bool(chosen.note)


def test_both_flags_are_refused() -> None:
    with pytest.raises(UsageError, match="exclude"):
        choose_precision(TrainSettings(fp16=True, bf16=True), CPU)


def test_float16_learns_like_float32(tmp_path: Path) -> None:
    losses = {}
    for dtype in (torch.float16, torch.float32):
        run = trainer(tmp_path / str(dtype), dtype=dtype, dropout=0.0)
        losses[dtype] = [event.loss for event in run.run() if isinstance(event, StepDone)]
        assert run.progress.skipped == 0
    assert losses[torch.float16] == pytest.approx(losses[torch.float32], rel=2e-3)


def test_an_overflowing_step_is_computed_again_with_half_the_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So high that the first backward pass overflows: 2^40 times a gradient of any size does.
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**40)
    run = trainer(tmp_path, dtype=torch.float16, dropout=0.0)
    events = list(run.run())
    assert sum(isinstance(event, StepDone) for event in events) == RECIPE.total_steps
    assert run.progress.skipped == 0
    assert 1.0 < run.progress.scale.value < 2.0**40
    recorded = [
        record["loss_scale"] for record in read_metrics(tmp_path / "run") if "loss" in record
    ]
    assert 2.0**40 > recorded[0] >= recorded[-1] == run.progress.scale.value


def test_a_step_that_no_scale_helps_leaves_the_scale_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is a number, its gradient is none at any scale: the next steps need theirs."""
    run = trainer(tmp_path, dtype=torch.float16, dropout=0.0)
    computed, tried = step_module.loss_backward, 0

    def loss_backward(*arguments: Any, **named: Any) -> torch.Tensor:
        nonlocal tried
        loss = computed(*arguments, **named)
        if run.progress.step == 3:
            tried += 1
            run._optimizer._summed[0] = torch.inf
        return loss

    monkeypatch.setattr(step_module, "loss_backward", loss_backward)
    events = list(run.run())
    assert [event.step for event in events if isinstance(event, StepSkipped)] == [4]
    assert tried > 10
    assert run.progress.scale.value == FIRST_SCALE


def test_a_scale_that_has_come_down_grows_again() -> None:
    scale = LossScale(value=FIRST_SCALE)
    while (halved := scale.halved()) is not None:
        scale = halved
    least = scale
    for _step in range(GROWTH_STEPS):
        scale = scale.after_good_step()
    assert scale.value == 2 * least.value


def test_the_scale_grows_after_many_good_steps_and_is_resumed(tmp_path: Path) -> None:
    scale = LossScale(value=FIRST_SCALE)
    for _step in range(GROWTH_STEPS):
        scale = scale.after_good_step()
    assert scale == LossScale(value=2 * FIRST_SCALE)
    assert LossScale().after_good_step() == LossScale()
    run = trainer(tmp_path, dtype=torch.float16)
    list(run.run())
    reached = run.progress.scale
    run.resume(12)
    assert run.progress.scale == reached
    assert reached.good_steps == RECIPE.total_steps
