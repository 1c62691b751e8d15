"""The numbers of a run against the step arithmetic of Hugging Face's Trainer."""

from __future__ import annotations

import pytest

from danlu.settings.resolve import resolve
from danlu.train.recipe import Recipe, recipe_of
from danlu.train.settings import TrainSettings


def recipe(*words: str, num_train_rows: int = 900) -> Recipe:
    settings = resolve(TrainSettings, list(words), {}).values
    return recipe_of(settings, num_train_rows=num_train_rows, num_eval_rows=100)


def test_the_steps_of_the_tutorial() -> None:
    # 1,000 rows, a tenth held out, 2 x 8 rows a step: 57 updates an epoch, 285 in five.
    tutorial = recipe("--preset", "tutorial")
    assert tutorial.rows_per_step == 16
    assert tutorial.total_steps == 285
    assert (tutorial.eval_steps, tutorial.save_steps, tutorial.logging_steps) == (50, 100, 50)
    assert tutorial.schedule.warmup_steps == 20
    # 100, 200, the last one and the best one.
    assert tutorial.kept_checkpoints == 4


def test_an_epoch_ends_with_a_smaller_step() -> None:
    each = recipe("--eval_strategy", "epoch", "--save_strategy", "epoch", num_train_rows=33)
    assert (each.eval_steps, each.save_steps, each.total_steps) == (3, 3, 9)
    assert recipe("--num_train_epochs", "0.01").total_steps == 1
    assert recipe("--max_steps", "7").total_steps == 7


def test_below_one_a_number_of_steps_is_a_share_rounded_up() -> None:
    share = recipe("--max_steps", "25", "--eval_steps", "0.1", "--warmup_ratio", "0.05")
    assert share.eval_steps == 3
    assert share.schedule.warmup_steps == 2


@pytest.mark.parametrize("total", [*range(1, 70), 219, 408, 701, 5000])
def test_by_default_the_evaluations_make_a_curve(total: int) -> None:
    """At least eight points where there are as many steps; what the user sets stays."""
    every = recipe("--max_steps", str(total)).eval_steps
    assert 1 <= every <= 100
    assert -(-total // every) >= min(total, 8)
    assert recipe("--max_steps", str(total), "--eval_steps", "5").eval_steps == 5
    assert recipe("--max_steps", str(total), "--eval_strategy", "no").eval_steps == 0
