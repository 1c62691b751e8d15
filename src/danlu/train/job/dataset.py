"""The rows of a run, checked before any weights are loaded, and what run.json says of them."""

from __future__ import annotations

import hashlib

from danlu.data.doctor.check import CheckedData, check_data, refusal
from danlu.data.settings import DataSettings
from danlu.runs.manifest import DataRecord
from danlu.text.tokenizer import Tokenizer

# How many of the rows that were left out run.json names; it counts all of them.
MOST_RECORDED = 1000


def prepare_data(settings: DataSettings, tokenizer: Tokenizer) -> CheckedData:
    """Read, check, tokenize and split the data sets of a run.

    Raises DataError, naming rows, where the data is bad and `skip_bad_rows` does not suffice, and
    where no row is left to train on.
    """
    data = check_data(settings, tokenizer)
    if data.report.refuses:
        raise refusal(data.report)
    return data


def data_record(data: CheckedData) -> DataRecord:
    """Say for run.json what the rows were and what became of them."""
    return DataRecord(
        fingerprint=data_fingerprint(data),
        num_train_rows=len(data.train),
        num_eval_rows=len(data.held_out),
        num_train_tokens=data.report.train.num_tokens,
        num_supervised_tokens=data.report.train.num_supervised,
        left_out_rows=tuple(map(str, data.report.left_out[:MOST_RECORDED])),
        **data.report.as_record(),
    )


def data_fingerprint(data: CheckedData) -> str:
    """Return 32 hexadecimal digits that change with any token, mask or split of the rows."""
    digest = hashlib.blake2b(digest_size=16)
    for rows in (data.train, data.held_out):
        digest.update(b"rows")
        for example in (example for row in rows for example in row):
            digest.update(example.tokens.tobytes())
            digest.update(example.supervised.tobytes())
    return digest.hexdigest()
