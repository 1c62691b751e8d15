"""What a user hears of a run that learned nothing, learned by heart, or lost its format."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from danlu.workflows.report.verdict import little_learned, loss_of_training, verdict


def records(*losses: float) -> list[dict[str, Any]]:
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]


def found(
    *, train: tuple[float, ...], held_out: tuple[float, float], kept: tuple[int, int] = (14, 14)
) -> Any:
    """Measurements with these losses, and thoughts kept in so many of 14 answers."""
    return SimpleNamespace(
        records=records(*train),
        judged=SimpleNamespace(held_out=True),
        losses=[SimpleNamespace(loss=loss) for loss in held_out],
        began_with="",
        former="base",
        forms=lambda: [SimpleNamespace(answers=14, thought_kept=count) for count in kept],
    )


def test_a_good_run_hears_nothing() -> None:
    assert verdict(found(train=(5.0, 3.0, 1.0), held_out=(5.0, 2.0))) == []


@pytest.mark.parametrize("losses", [(5.0, 4.9), (5.0, 4.9, 5.1, 4.99)])
def test_a_loss_that_hardly_moves(losses: tuple[float, ...]) -> None:
    [line] = little_learned(records(*losses))
    assert f"{losses[0]:.4f} to {losses[-1]:.4f}" in line
    assert "--learning_rate" in line


def test_single_steps_do_not_decide() -> None:
    """Of many steps the first and the last tenth are compared."""
    losses = [5.0] * 10 + [3.0] * 79 + [2.0] * 10 + [6.0]
    assert loss_of_training(records(*losses)) == (5.0, pytest.approx(2.4))
    assert little_learned(records(*losses)) == []
    assert little_learned(records(5.0)) == []


def test_rows_learned_by_heart() -> None:
    [line] = verdict(found(train=(5.0, 0.1), held_out=(5.0, 5.5)))
    assert "learned by heart" in line
    assert "--num_train_epochs" in line


def test_a_format_that_was_lost() -> None:
    [line] = verdict(found(train=(5.0, 1.0), held_out=(5.0, 2.0), kept=(14, 1)))
    assert "14 of 14" in line
    assert "1 of 14" in line
    assert "--enable_thinking false" in line
    assert verdict(found(train=(5.0, 1.0), held_out=(5.0, 2.0), kept=(14, 12))) == []
