"""The numbers of a run, from its settings, with Hugging Face's step arithmetic."""

from __future__ import annotations

import math

from danlu.errors import UsageError
from danlu.language import _
from danlu.train.settings import TrainSettings
from danlu.train.trainer import Recipe, steps_per_epoch


def recipe_of(settings: TrainSettings, *, num_train_rows: int) -> Recipe:
    """Turn settings into the numbers of a run, with Hugging Face's step arithmetic."""
    rows_per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    per_epoch = steps_per_epoch(num_train_rows, rows_per_step)
    total = settings.max_steps
    if total <= 0:
        total = max(1, math.ceil(settings.num_train_epochs * per_epoch))
    return Recipe(
        total_steps=total,
        rows_per_step=rows_per_step,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        eval_on_start=settings.eval_on_start,
        eval_steps=settings.eval_steps,
        save_steps=settings.save_steps,
        save_total_limit=settings.save_total_limit,
        load_best_model_at_end=settings.load_best_model_at_end,
        micro_batch_tokens=settings.micro_batch_tokens,
    )


def check_required(settings: TrainSettings) -> None:
    """Raise UsageError for a setting that is missing or cannot work."""
    for name, example in (("dataset", "rows.jsonl"), ("output_dir", "my-run")):
        if not getattr(settings, name):
            raise UsageError(
                _("--{name} is missing.").format(name=name),
                why=_("danlu train needs data to learn and a folder for the result."),
                fix=f"danlu train --{name} {example} ...",
            )
    if not settings.do_train:
        raise UsageError(
            _("--do_train false leaves nothing to do."),
            why=_("danlu train trains; it does not only evaluate."),
            fix="--do_train true",
        )
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "cutoff_len"):
        if getattr(settings, name) < 1:
            raise UsageError(
                _("--{name} must be 1 or more.").format(name=name),
                why=_("It is {value}.").format(value=getattr(settings, name)),
                fix=f"--{name} 1",
            )
