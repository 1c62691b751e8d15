"""A whole training with the C++ kernels in bf16 learns what the twins learn in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.device.variants import NATIVE, REFERENCE
from danlu.ops.choice import _OPERATIONS
from danlu.train.events import StepDone
from tests.helpers.models.native import needs_library
from tests.helpers.models.variants import taken
from tests.helpers.training.trainers import RECIPE, trainer

pytestmark = needs_library
# What a training step computes with, of those that have kernels in C++.
OPERATIONS = ("attention", "cross_entropy", "low_rank", "rms_norm", "rotated_qkv", "swiglu")


@contextmanager
def all_taken(variant: str) -> Iterator[None]:
    with ExitStack() as stack:
        for name in OPERATIONS:
            stack.enter_context(taken(_OPERATIONS[name], variant))
        yield


def losses(folder: Path, variant: str, dtype: torch.dtype, *, full: bool) -> list[float]:
    recipe = replace(RECIPE, total_steps=24, eval_steps=0, save_steps=0)
    with all_taken(variant):
        run = trainer(folder, recipe, full=full, dtype=dtype, dropout=0.0)
        return [event.loss for event in run.run() if isinstance(event, StepDone)]


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_the_loss_is_that_of_fp32(full: bool, tmp_path: Path) -> None:
    ours = losses(tmp_path / "ours", NATIVE, torch.bfloat16, full=full)
    reference = losses(tmp_path / "reference", REFERENCE, torch.float32, full=full)
    assert reference[-1] < 0.9 * reference[0]  # something is learned
    assert ours == pytest.approx(reference, rel=0.02)
    assert sum(ours[-5:]) == pytest.approx(sum(reference[-5:]), rel=0.01)
