"""What a run needs before any weights are loaded: tokenized rows, and the numbers of the recipe."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from danlu.data.datasets import load_rows
from danlu.data.examples import Example, TokenCost, token_cost, tokenize_rows
from danlu.data.order import split
from danlu.errors import DataError, UsageError
from danlu.language import _
from danlu.text.tokenizer import Tokenizer
from danlu.train.settings import TrainSettings
from danlu.train.trainer import Recipe, steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Tokenized rows, split; and what was left out because it was too long, as file:line."""

    train_rows: list[list[Example]]
    eval_rows: list[list[Example]]
    cost: TokenCost
    too_long: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any token, mask or split of the rows."""
        digest = hashlib.blake2b(digest_size=16)
        for rows in (self.train_rows, self.eval_rows):
            digest.update(b"rows")
            for example in (example for row in rows for example in row):
                digest.update(example.tokens.tobytes())
                digest.update(example.supervised.tobytes())
        return digest.hexdigest()


def prepare_data(settings: TrainSettings, tokenizer: Tokenizer) -> PreparedData:
    """Read, split and tokenize the data set. Raises DataError where no row is left to train on."""
    rows = load_rows(settings.dataset, Path(settings.dataset_dir), max_samples=settings.max_samples)
    train, held_out = split(len(rows), val_size=settings.val_size, seed=settings.seed)
    parts: list[list[list[Example]]] = []
    too_long: list[str] = []
    for indices in (train, held_out):
        chosen = [rows[int(index)] for index in indices]
        fitting, dropped = tokenize_rows(
            [row.conversation for row in chosen],
            tokenizer,
            template=settings.template,
            enable_thinking=settings.enable_thinking,
            cutoff_len=settings.cutoff_len,
        )
        parts.append(fitting)
        too_long += [chosen[index].place for index in dropped]
    if not parts[0]:
        raise DataError(
            _("No rows are left to train on."),
            why=_(
                "Of {total} rows {held} are held out and {long} are over {cutoff} tokens."
            ).format(
                total=len(rows),
                held=len(held_out),
                long=len(too_long),
                cutoff=settings.cutoff_len,
            ),
            fix=_("Raise --cutoff_len, lower --val_size, or add rows."),
        )
    return PreparedData(
        train_rows=parts[0],
        eval_rows=parts[1],
        cost=token_cost(parts[0]),
        too_long=tuple(too_long),
    )


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
