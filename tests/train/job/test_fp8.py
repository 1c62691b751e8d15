"""Training on a base in fp8: what it costs the loss, who may, what is recorded, going on."""

from __future__ import annotations

import pytest

from benchmarks.device_check.fp8 import GATE, trained
from danlu.ops.choice import VARIABLE

TWIN = "fp8_linear=reference"


@pytest.fixture(autouse=True)
def _twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """This CPU computes in fp8 by the twin: the same rounding as a card's."""
    monkeypatch.setenv(VARIABLE, TWIN)


def mean(losses: list[float]) -> float:
    return sum(losses) / len(losses)


def test_thirty_steps_lose_as_much_as_without() -> None:
    (plain, _held), (in_fp8, _held8) = (trained("cpu", 30, fp8=on, rows=4) for on in (False, True))
    assert in_fp8 != plain
    assert mean(in_fp8[-10:]) <= (1 + GATE) * mean(plain[-10:])


@pytest.mark.soak
def test_the_loss_after_a_hundred_steps_is_within_a_hundredth() -> None:
    (plain, held), (in_fp8, held8) = (trained("cpu", 100, fp8=on) for on in (False, True))
    assert held < 0.2 * plain[0]
    assert mean(in_fp8[-10:]) <= (1 + GATE) * mean(plain[-10:])
    assert held8 <= (1 + GATE) * held
