"""The numbers of a run, from its settings, with Hugging Face's step arithmetic."""

from __future__ import annotations

import math

from danlu.errors import UsageError
from danlu.language import _
from danlu.train.loop.batches import steps_per_epoch
from danlu.train.loop.trainer import Recipe
from danlu.train.schedule import Schedule, read_numbers
from danlu.train.settings import TrainSettings


def recipe_of(settings: TrainSettings, *, num_train_rows: int, num_eval_rows: int) -> Recipe:
    """Turn settings into the numbers of a run.

    Raises UsageError where something needs held-out rows and there are none.
    """
    rows_per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
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
        schedule=_schedule_of(settings, total),
        weight_decay=settings.weight_decay,
        adam_betas=(settings.adam_beta1, settings.adam_beta2),
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        eval_on_start=settings.eval_on_start,
        eval_steps=_eval_steps(settings, total, per_epoch),
        save_steps=_save_steps(settings, total, per_epoch),
        save_total_limit=settings.save_total_limit,
        load_best_model_at_end=settings.load_best_model_at_end,
        metric_for_best_model="eval_loss" if metric == "loss" else metric,
        early_stopping_patience=settings.early_stopping_patience,
    )


def logging_steps_of(settings: TrainSettings, recipe: Recipe) -> int:
    """Return after how many steps a line is logged."""
    return max(1, _steps(settings.logging_steps, recipe.total_steps))


def _schedule_of(settings: TrainSettings, total: int) -> Schedule:
    warmup = settings.warmup_steps or settings.warmup_ratio
    return Schedule(
        name=settings.lr_scheduler_type,
        peak=settings.learning_rate,
        warmup_steps=_steps(warmup, total),
        numbers=read_numbers(settings.lr_scheduler_type, settings.lr_scheduler_kwargs),
    )


def _steps(value: float, total: int) -> int:
    """Read a number of steps; below 1 it is a share of all steps, rounded up as in transformers."""
    return math.ceil(value * total) if value < 1 else int(value)


def _eval_steps(settings: TrainSettings, total: int, per_epoch: int) -> int:
    strategy = settings.eval_strategy
    if strategy == "auto":
        strategy = "steps" if settings.eval_steps else "no"
    if strategy == "steps":
        # As in transformers: without a number the losses are computed when they are logged.
        return max(1, _steps(settings.eval_steps or settings.logging_steps, total))
    return per_epoch if strategy == "epoch" else 0


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
