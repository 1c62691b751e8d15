"""The numbers of a run, from its settings, with Hugging Face's step arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from danlu.data.tokens.order import epoch_order
from danlu.errors import UsageError
from danlu.language import _
from danlu.train.schedule import Schedule, read_numbers
from danlu.train.settings import TrainSettings

# With fewer held-out losses nobody sees a curve.
_LEAST_EVALUATIONS = 8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a run; names as in Hugging Face's TrainingArguments where they exist there.

    rows_per_step: per_device_train_batch_size x gradient_accumulation_steps x devices. eval_steps
    and save_steps 0 mean only at the end (and, for saving, at each new best evaluation).
    early_stopping_patience 0 is off.
    """

    total_steps: int
    rows_per_step: int
    schedule: Schedule
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = 1e-8
    max_grad_norm: float
    seed: int
    eval_on_start: bool = False
    eval_steps: int = 0
    save_steps: int = 0
    logging_steps: int = 10
    save_total_limit: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str = "eval_loss"
    early_stopping_patience: int = 0

    @property
    def kept_checkpoints(self) -> int:
        """How many checkpoints can stand beside each other, without the result in final/."""
        scheduled = self.total_steps // self.save_steps if self.save_steps else 0
        # The last one and the best one come on top; the best one on top of a limit, too.
        all_of_them = min(self.total_steps, scheduled + 2)
        limit = self.save_total_limit
        return all_of_them if limit is None else min(all_of_them, limit + 1)


def steps_per_epoch(num_rows: int, rows_per_step: int) -> int:
    """Count the optimizer steps of an epoch; the last one may hold fewer rows."""
    return -(-num_rows // rows_per_step)


def rows_of_step(step: int, num_rows: int, *, rows_per_step: int, seed: int) -> list[int]:
    """Return which of `num_rows` rows optimizer step `step`, counted from 0, takes."""
    epoch, index = divmod(step, steps_per_epoch(num_rows, rows_per_step))
    order = epoch_order(num_rows, seed, epoch)
    return [int(row) for row in order[index * rows_per_step : (index + 1) * rows_per_step]]


def recipe_of(
    settings: TrainSettings, *, num_train_rows: int, num_eval_rows: int, num_devices: int = 1
) -> Recipe:
    """Turn settings into the numbers of a run. num_devices: that it begins with.

    Raises UsageError where something needs held-out rows and there are none.
    """
    rows_per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    rows_per_step *= num_devices
    per_epoch = steps_per_epoch(num_train_rows, rows_per_step)
    total = settings.max_steps
    if total <= 0:
        total = max(1, math.ceil(settings.num_train_epochs * per_epoch))
    if not num_eval_rows:
        _check_needs_no_evaluation(settings)
    metric = settings.metric_for_best_model
    return Recipe(
        total_steps=total,
        rows_per_step=rows_per_step,
        schedule=Schedule(
            name=settings.lr_scheduler_type,
            peak=settings.learning_rate,
            warmup_steps=_steps(settings.warmup_steps or settings.warmup_ratio, total),
            numbers=read_numbers(settings.lr_scheduler_type, settings.lr_scheduler_kwargs),
        ),
        weight_decay=settings.weight_decay,
        adam_betas=(settings.adam_beta1, settings.adam_beta2),
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        eval_on_start=settings.eval_on_start,
        eval_steps=_eval_steps(settings, total, per_epoch),
        save_steps=_save_steps(settings, total, per_epoch),
        logging_steps=max(1, _steps(settings.logging_steps, total)),
        save_total_limit=settings.save_total_limit,
        load_best_model_at_end=settings.load_best_model_at_end,
        metric_for_best_model="eval_loss" if metric == "loss" else metric,
        early_stopping_patience=settings.early_stopping_patience,
    )


def _steps(value: float, total: int) -> int:
    """Read a number of steps; below 1 it is a share of all steps, rounded up as in transformers."""
    return math.ceil(value * total) if value < 1 else int(value)


def _eval_steps(settings: TrainSettings, total: int, per_epoch: int) -> int:
    strategy = settings.eval_strategy
    if strategy == "auto":
        if not settings.eval_steps:
            return _dense_enough(total)
        strategy = "steps"
    if strategy == "steps":
        # As in transformers: without a number the losses are computed when they are logged.
        return max(1, _steps(settings.eval_steps or settings.logging_steps, total))
    return per_epoch if strategy == "epoch" else 0


def _dense_enough(total: int) -> int:
    """Return after how many steps to evaluate, so that the held-out losses make a curve.

    At least eight points, where there are as many steps; in long runs one every hundred steps.
    """
    every = math.ceil(total / _LEAST_EVALUATIONS)
    if math.ceil(total / every) < _LEAST_EVALUATIONS:
        every = max(1, every - 1)
    return min(every, 100)


def _save_steps(settings: TrainSettings, total: int, per_epoch: int) -> int:
    if settings.save_strategy == "steps":
        return _steps(settings.save_steps, total)
    return per_epoch if settings.save_strategy == "epoch" else 0


def _check_needs_no_evaluation(settings: TrainSettings) -> None:
    wanted = {
        "load_best_model_at_end": settings.load_best_model_at_end,
        "early_stopping_patience": settings.early_stopping_patience > 0,
    }
    for name, is_wanted in wanted.items():
        if is_wanted:
            raise UsageError(
                _("--{name} needs rows to evaluate on.").format(name=name),
                why=_("No rows are held out, and eval_dataset names none."),
                fix=_("Add --val_size 0.1, or --eval_dataset NAME"),
            )
