"""Rows as training sees them: token by token, with what is learned.

Knows how rows become tokens. Must not know colours or pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from danlu.data.datasets import DataSet, rows_of
from danlu.data.findings import Finding
from danlu.data.tokens.examples import Pieces, Rendering
from danlu.data.tokens.tokenizing import fit_rows
from danlu.text.detokenize import Detokenizer
from danlu.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ShownToken:
    """One token. text: the characters that are complete with it; perhaps none, perhaps several."""

    id: int
    text: str
    is_control: bool
    is_learned: bool


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row: where it stands, what was found in it, its examples."""

    place: str
    findings: tuple[Finding, ...]
    examples: tuple[tuple[ShownToken, ...], ...]


def preview(
    datasets: Sequence[DataSet], tokenizer: Tokenizer, rendering: Rendering, *, num_rows: int
) -> Iterator[ShownRow]:
    """Yield the first rows of some data sets, as many as are asked for."""
    items = islice(rows_of(datasets), num_rows)
    for row in fit_rows(items, tokenizer, rendering, batch_rows=1):
        yield ShownRow(
            place=row.place,
            findings=row.findings,
            examples=tuple(tuple(_tokens(example, tokenizer)) for example in row.fitted),
        )


def _tokens(example: Pieces, tokenizer: Tokenizer) -> Iterator[ShownToken]:
    for span, ids in example:
        if span.control:
            yield ShownToken(id=ids[0], text=span.text, is_control=True, is_learned=span.supervised)
            continue
        detokenizer = Detokenizer(tokenizer)
        for number, id_ in enumerate(ids, start=1):
            text = detokenizer.feed(id_)
            if number == len(ids):
                text += detokenizer.finish()
            yield ShownToken(id=id_, text=text, is_control=False, is_learned=span.supervised)
