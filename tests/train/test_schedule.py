"""Learning rates equal transformers' for every name that is offered."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from danlu.errors import UsageError
from danlu.train.schedule import NUMBERS, Schedule, read_numbers
from danlu.train.settings import ScheduleName

CASES: list[tuple[str, dict[str, float]]] = [
    *((name, {}) for name in get_args(ScheduleName) if name != "cosine_with_min_lr"),
    ("cosine_with_min_lr", {"min_lr": 1e-5}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("cosine_with_restarts", {"num_cycles": 1.5}),
    ("polynomial", {"power": 2.0, "lr_end": 1e-6}),
    ("inverse_sqrt", {"timescale": 50}),
]


@pytest.mark.parametrize("warmup", [0, 20])
@pytest.mark.parametrize(("name", "numbers"), CASES)
def test_equals_transformers(name: str, numbers: dict[str, float], warmup: int) -> None:
    from transformers import get_scheduler

    total, peak = 285, 3e-4
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    arguments: dict[str, Any] = dict(numbers)
    theirs = get_scheduler(
        name, optimizer, warmup, total, scheduler_specific_kwargs=arguments or None
    )
    ours = Schedule(name=name, peak=peak, warmup_steps=warmup, numbers=numbers)
    for step in range(total):
        expected = theirs.get_last_lr()[0]
        assert ours.rate(step, total_steps=total) == pytest.approx(expected, rel=1e-9, abs=1e-15)
        optimizer.step()
        theirs.step()


def test_every_schedule_with_numbers_is_offered() -> None:
    assert set(NUMBERS) <= set(get_args(ScheduleName))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"cycles": 2}',
        '{"num_cycles": "many"}',
        '{"num_cycles": -1}',
        '{"num_cycles": NaN}',
        '{"num_cycles": Infinity}',
    ],
)
def test_wrong_numbers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="lr_scheduler_kwargs"):
        read_numbers("cosine", text)
    assert read_numbers("cosine", '{"num_cycles": 2}') == {"num_cycles": 2.0}
