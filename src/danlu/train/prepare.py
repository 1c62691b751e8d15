"""The rows of a run, read, split and tokenized before any weights are loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.datasets import load_rows
from danlu.data.examples import Example, TokenCost, token_cost, tokenize_rows
from danlu.data.order import split
from danlu.errors import DataError
from danlu.language import _
from danlu.text.tokenizer import Tokenizer
from danlu.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Tokenized rows, split; and what was left out because it was too long, as file:line."""

    train_rows: list[list[Example]]
    eval_rows: list[list[Example]]
    cost: TokenCost
    too_long: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Say for run.json what the rows were and what became of them."""
        return {
            "fingerprint": self.fingerprint,
            "num_train_rows": len(self.train_rows),
            "num_eval_rows": len(self.eval_rows),
            "num_train_tokens": self.cost.num_tokens,
            "num_supervised_tokens": self.cost.num_supervised,
            "too_long": list(self.too_long),
        }

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
