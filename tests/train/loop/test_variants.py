"""Whichever variants an operation is computed with: a whole training gives the same losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.device.variants import ASCEND, FLASH, TRITON
from danlu.ops.choice import _OPERATIONS, NotHere
from danlu.train.events import StepDone
from tests.helpers.models.variants import taken
from tests.helpers.training.trainers import RECIPE, trainer

CPU = torch.device("cpu")


def can_run(name: str, variant: str) -> bool:
    try:
        return _OPERATIONS[name]._fault(variant, CPU) is None
    except NotHere:
        return False


# Kernels of other devices have tests of their own; Triton's may not be imported here first.
PAIRS = [
    (name, variant)
    for name, operation in _OPERATIONS.items()
    for variant in operation.variants
    if variant not in (ASCEND, FLASH, TRITON) and can_run(name, variant)
]


def losses(folder: Path, full: bool) -> list[float]:
    recipe = replace(RECIPE, total_steps=3, eval_steps=0, save_steps=0)
    run = trainer(folder, recipe, full=full, dtype=torch.bfloat16)
    return [event.loss for event in run.run() if isinstance(event, StepDone)]


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize(("name", "variant"), PAIRS)
def test_a_training_with_it_gives_the_usual_losses(
    name: str, variant: str, full: bool, tmp_path: Path
) -> None:
    usual = losses(tmp_path / "usual", full)
    with taken(_OPERATIONS[name], variant):
        assert losses(tmp_path / "other", full) == pytest.approx(usual, rel=0.01)
