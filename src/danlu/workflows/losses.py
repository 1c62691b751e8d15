"""The loss of many rows in parts: between two, a deadline can be checked or progress shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from danlu.data.tokens.examples import Example
from danlu.dialog.assistant import Assistant
from danlu.lora.bank import AdapterBank
from danlu.train.loop.evaluate import Evaluation, evaluate


def losses_in_parts(
    assistant: Assistant,
    rows: Iterable[Sequence[Example]],
    *,
    part_tokens: int,
    with_adapter: bool = True,
) -> Iterator[Evaluation]:
    """Yield the losses of consecutive rows, about `part_tokens` tokens at a time.

    A part is computed when it is taken. Every row must have supervised tokens.
    """
    adapter = assistant.adapter if with_adapter else None
    linear = AdapterBank.of_one(adapter)
    for part in _parts(rows, part_tokens):
        yield evaluate(assistant.loaded, linear, part, micro_batch_tokens=part_tokens)


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Combine the losses of at least one part to that of all their rows."""
    num_rows = sum(part.num_rows for part in parts)
    num_tokens = sum(part.num_tokens for part in parts)
    return Evaluation(
        loss=sum(part.loss * part.num_tokens for part in parts) / num_tokens,
        loss_per_sample=sum(part.loss_per_sample * part.num_rows for part in parts) / num_rows,
        num_rows=num_rows,
        num_tokens=num_tokens,
    )


def _parts(rows: Iterable[Sequence[Example]], max_tokens: int) -> Iterator[list[Sequence[Example]]]:
    """Group consecutive rows of at most `max_tokens` in all; a longer row is a part of its own."""
    part: list[Sequence[Example]] = []
    tokens = 0
    for row in rows:
        length = sum(len(example.tokens) for example in row)
        if part and tokens + length > max_tokens:
            yield part
            part, tokens = [], 0
        part.append(row)
        tokens += length
    if part:
        yield part
