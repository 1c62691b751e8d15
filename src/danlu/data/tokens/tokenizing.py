"""Data sets to tokens: read, rendered and encoded a batch of rows at a time, then cached.

Neither the files nor their conversations are ever held in memory whole. Results are the same with
any size of the batches, with and without the cache.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from danlu.data.datasets import DataSet, Row, rows_of
from danlu.data.findings import Finding
from danlu.data.formats.suspicions import suspicions
from danlu.data.tokens.examples import Pieces, Rendering, encode_conversations, num_tokens
from danlu.data.tokens.overlong import fit_row
from danlu.data.tokens.token_cache import CacheEntry
from danlu.data.tokens.token_table import TokenizedData
from danlu.errors import DataError
from danlu.text.conversation import Conversation
from danlu.text.render import TURN_END, TURN_START, check_template
from danlu.text.tokenizer import Tokenizer

BATCH_ROWS = 256


def tokenize_datasets(
    datasets: Sequence[DataSet],
    tokenizer: Tokenizer,
    rendering: Rendering,
    *,
    cache: Path | None,
    overwrite: bool = False,
) -> TokenizedData:
    """Tokenize all rows of some data sets, or take them from the folder `cache`.

    overwrite: make them anew. Raises UsageError for an unknown template or a missing file,
    DataError for a tokenizer without Qwen3's control tokens.
    """
    check_template(rendering.template)
    for name in (TURN_START, TURN_END):
        tokenizer.control_id(name)
    if cache is None:
        return tokenize_rows(rows_of(datasets), tokenizer, rendering)
    entry = CacheEntry(cache, datasets, tokenizer, rendering)
    data = None if overwrite else entry.load()
    if data is None:
        data = tokenize_rows(rows_of(datasets), tokenizer, rendering)
        entry.store(data)
    return replace(data, findings=(*data.findings, *entry.notes))


@dataclass(frozen=True, kw_only=True)
class FittedRow:
    """One row on its way to tokens. conversation: None for a row that cannot be used.

    whole: its examples as they were; fitted: as they fit, none for a row that is left out.
    """

    place: str
    conversation: Conversation | None = None
    whole: Sequence[Pieces] = ()
    fitted: Sequence[Pieces] = ()
    findings: tuple[Finding, ...] = ()


def tokenize_rows(
    items: Iterable[Row | Finding],
    tokenizer: Tokenizer,
    rendering: Rendering,
    *,
    batch_rows: int = BATCH_ROWS,
) -> TokenizedData:
    """Tokenize rows, `batch_rows` at a time; a finding becomes a row without examples."""
    table = _Table()
    for row in fit_rows(items, tokenizer, rendering, batch_rows=batch_rows):
        table.add(row)
    return table.finished()


def fit_rows(
    items: Iterable[Row | Finding],
    tokenizer: Tokenizer,
    rendering: Rendering,
    *,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[FittedRow]:
    """Yield one row per item: encoded, checked for suspicious texts and made to fit."""
    items = iter(items)
    while batch := list(islice(items, batch_rows)):
        rows = [item for item in batch if isinstance(item, Row)]
        encoded = iter(_encode(rows, tokenizer, rendering))
        for item in batch:
            if isinstance(item, Finding):
                yield FittedRow(place=item.place, findings=(item,))
                continue
            found = next(encoded)
            if isinstance(found, Finding):
                yield FittedRow(place=item.place, findings=(found,))
                continue
            fitted, finding = fit_row(found, item.place, tokenizer, rendering)
            suspicious = suspicions(item.conversation, item.place)
            yield FittedRow(
                place=item.place,
                conversation=item.conversation,
                whole=found,
                fitted=fitted,
                findings=(*([finding] if finding else ()), *suspicious),
            )


def _encode(
    rows: Sequence[Row], tokenizer: Tokenizer, rendering: Rendering
) -> Sequence[list[Pieces] | Finding]:
    try:
        return encode_conversations([row.conversation for row in rows], tokenizer, rendering)
    except DataError as problem:
        if len(rows) > 1:
            # One of them cannot be encoded: find out which.
            return [found for row in rows for found in _encode([row], tokenizer, rendering)]
        return [
            Finding(
                place=rows[0].place,
                kind="lone_surrogate",
                what=f"{problem.what} {problem.why}",
                fix=problem.fix,
            )
        ]


class _Table:
    """Arrays that grow row by row."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._tokens = array("i")
        self._supervised = bytearray()
        self._example_ends = array("q")
        self._row_ends = array("q")
        self._lengths = array("i")
        self._cut_tokens = array("i")
        self._digests = array("Q")
        self._places: list[str] = []

    def add(self, row: FittedRow) -> None:
        """Add a row and its examples."""
        self.findings += row.findings
        self._places.append(row.place)
        for example in row.fitted:
            for span, ids in example:
                self._tokens.extend(ids)
                self._supervised += (b"\1" if span.supervised else b"\0") * len(ids)
            self._example_ends.append(len(self._tokens))
        self._row_ends.append(len(self._example_ends))
        lengths = [num_tokens(example) for example in row.whole]
        self._lengths.append(max(lengths, default=0))
        left = sum(map(num_tokens, row.fitted))
        self._cut_tokens.append(sum(lengths) - left if row.fitted else 0)
        self._digests.extend((0, 0) if row.conversation is None else _digests(row.conversation))

    def finished(self) -> TokenizedData:
        """Return all rows that were added."""
        digests = np.array(self._digests, dtype=np.uint64).reshape(-1, 2)
        return TokenizedData(
            tokens=np.frombuffer(self._tokens, dtype=np.int32),
            supervised=np.frombuffer(self._supervised, dtype=np.bool_),
            example_ends=np.array(self._example_ends, dtype=np.int64),
            row_ends=np.array(self._row_ends, dtype=np.int64),
            lengths=np.array(self._lengths, dtype=np.int32),
            cut_tokens=np.array(self._cut_tokens, dtype=np.int32),
            row_digests=digests[:, 0].copy(),
            question_digests=digests[:, 1].copy(),
            places=tuple(self._places),
            findings=tuple(self.findings),
        )


def _digests(conversation: Conversation) -> tuple[int, int]:
    """Return 64 bits of the whole row, and 64 bits of all up to the last question."""
    messages = conversation.messages
    asked = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((conversation.tools, messages[: asked + 1])).encode())
    question = digest.digest()
    digest.update(repr(messages[asked + 1 :]).encode())
    return int.from_bytes(digest.digest(), "little"), int.from_bytes(question, "little")
