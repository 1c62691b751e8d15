"""Rows as training sees them: token by token, with what is learned.

Knows how rows become tokens. Must not know colours or pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from danlu.data.datasets import DataSet, Row, rows_of
from danlu.data.findings import Finding
from danlu.data.tokens.examples import Pieces, Rendering, num_tokens
from danlu.data.tokens.tokenizing import FittedRow, fit_rows
from danlu.text.detokenize import Detokenizer
from danlu.text.render import Span
from danlu.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ShownToken:
    """One token. text: the characters that are complete with it; perhaps none, perhaps several.

    is_cut: it is not there any more, since the row was too long.
    """

    id: int
    text: str
    is_control: bool
    is_learned: bool
    is_cut: bool = False


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row: where it stands, what was found in it, its examples.

    num_tokens: of its longest example, before anything was cut; 0 where it cannot be used.
    """

    place: str
    findings: tuple[Finding, ...]
    examples: tuple[tuple[ShownToken, ...], ...]
    num_tokens: int = 0


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
            num_tokens=_length(row),
        )


def preview_with_cuts(
    items: Iterable[Row | Finding], tokenizer: Tokenizer, rendering: Rendering
) -> Iterator[ShownRow]:
    """Yield rows of any choice, with what was cut out of those that are too long in its place.

    Of a row that is left out everything is cut.
    """
    for row in fit_rows(items, tokenizer, rendering):
        fitted: Sequence[Pieces] = row.fitted or [[]] * len(row.whole)
        examples = [
            tuple(_with_cuts(*pair, tokenizer)) for pair in zip(row.whole, fitted, strict=True)
        ]
        yield ShownRow(
            place=row.place,
            findings=row.findings,
            examples=tuple(examples),
            num_tokens=_length(row),
        )


def _length(row: FittedRow) -> int:
    return max(map(num_tokens, row.whole), default=0)


def _with_cuts(whole: Pieces, fitted: Pieces, tokenizer: Tokenizer) -> Iterator[ShownToken]:
    """Show an example as it fits; a text that was shortened keeps what was cut out, marked."""
    if not fitted:
        yield from (replace(token, is_cut=True) for token in _tokens(whole, tokenizer))
    elif len(whole) != len(fitted):
        # Cut as LLaMA-Factory does: turns are gone, and no text has a counterpart.
        yield from _tokens(fitted, tokenizer)
    else:
        for before, after in zip(whole, fitted, strict=True):
            shown = tuple(_span_tokens(*after, tokenizer))
            if before[1] == after[1]:
                yield from shown
            else:
                yield from _joined(tuple(_span_tokens(*before, tokenizer)), shown)


def _joined(before: Sequence[ShownToken], after: Sequence[ShownToken]) -> Iterator[ShownToken]:
    """Put what `after` lacks of `before` between its beginning and its end."""
    most = min(len(before), len(after))
    head = next((n for n in range(most) if before[n].id != after[n].id), most)
    rest = most - head
    tail = next((n for n in range(rest) if before[-1 - n].id != after[-1 - n].id), rest)
    yield from after[:head]
    yield from (replace(token, is_cut=True) for token in before[head : len(before) - tail])
    yield from after[head:]


def _tokens(example: Pieces, tokenizer: Tokenizer) -> Iterator[ShownToken]:
    for span, ids in example:
        yield from _span_tokens(span, ids, tokenizer)


def _span_tokens(span: Span, ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[ShownToken]:
    if span.control:
        yield ShownToken(id=ids[0], text=span.text, is_control=True, is_learned=span.supervised)
        return
    detokenizer = Detokenizer(tokenizer)
    for number, id_ in enumerate(ids, start=1):
        text = detokenizer.feed(id_)
        if number == len(ids):
            text += detokenizer.finish()
        yield ShownToken(id=id_, text=text, is_control=False, is_learned=span.supervised)
