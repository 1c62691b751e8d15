"""The rows of a run: checked, split and tokenized before any weights are loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from danlu.data.doctor.check import DataReport, check_data, refusal
from danlu.data.settings import DataSettings
from danlu.data.tokens.examples import Example, TokenCost
from danlu.runs.manifest import DataRecord
from danlu.text.tokenizer import Tokenizer

# How many of the rows that were left out run.json names; it counts all of them.
MOST_RECORDED = 1000


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Tokenized rows, split; where each of them stands, as file:line; and what was found."""

    train_rows: Sequence[Sequence[Example]]
    eval_rows: Sequence[Sequence[Example]]
    train_places: Sequence[str]
    eval_places: Sequence[str]
    report: DataReport

    @property
    def cost(self) -> TokenCost:
        """What one pass over the rows to learn costs."""
        return self.report.train

    def record(self) -> DataRecord:
        """Say for run.json what the rows were and what became of them."""
        return DataRecord(
            fingerprint=self.fingerprint,
            num_train_rows=len(self.train_rows),
            num_eval_rows=len(self.eval_rows),
            num_train_tokens=self.cost.num_tokens,
            num_supervised_tokens=self.cost.num_supervised,
            left_out_rows=tuple(map(str, self.report.left_out[:MOST_RECORDED])),
            **self.report.as_record(),
        )

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


def prepare_data(settings: DataSettings, tokenizer: Tokenizer) -> PreparedData:
    """Read, check, tokenize and split the data sets of a run.

    Raises DataError, naming rows, where the data is bad and `skip_bad_rows` does not suffice, and
    where no row is left to train on.
    """
    data = check_data(settings, tokenizer)
    if data.report.refuses:
        raise refusal(data.report)
    return PreparedData(
        train_rows=data.train,
        eval_rows=data.held_out,
        train_places=data.train.places,
        eval_places=data.held_out.places,
        report=data.report,
    )
