"""Data sets to tokens: read, rendered and encoded a batch of rows at a time, then cached.

Neither the files nor their conversations are ever held in memory whole. Results are the same with
any size of the batches, with and without the cache.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from danlu.data.datasets import DataSet, Row, rows_of
from danlu.data.findings import Finding
from danlu.data.formats.known_keys import JUDGING_KEYS, THOUGHT_KEYS
from danlu.data.formats.suspicions import Suspicions
from danlu.data.tokens.examples import Pieces, Rendering, encode_conversations, num_tokens
from danlu.data.tokens.overlong import fit_row
from danlu.data.tokens.token_cache import CacheEntry
from danlu.data.tokens.token_table import TokenizedData
from danlu.errors import DataError
from danlu.language import _
from danlu.text.conversation import Conversation
from danlu.text.render import TURN_END, TURN_START
from danlu.text.tokenizer import Tokenizer

BATCH_ROWS = 256
BATCH_CHARACTERS = 1 << 20
# Each answer may need an example that repeats all messages before it: more would take gigabytes.
MOST_REPEATED_MESSAGES = 1 << 21


def tokenize_datasets(
    datasets: Sequence[DataSet],
    tokenizer: Tokenizer,
    rendering: Rendering,
    *,
    cache: Path,
    overwrite: bool = False,
) -> TokenizedData:
    """Tokenize all rows of some data sets, or take them from the folder `cache`.

    overwrite: make them anew. Raises UsageError for an unknown template, DataError for a tokenizer
    without Qwen3's control tokens.
    """
    for name in (TURN_START, TURN_END):
        tokenizer.control_id(name)
    entry = CacheEntry(cache, datasets, tokenizer, rendering)
    data = None if overwrite else entry.load()
    if data is None:
        data = tokenize_rows(rows_of(datasets), tokenizer, rendering)
        entry.store(data)
    return replace(data, findings=(*data.findings, *entry.notes))


@dataclass(frozen=True, kw_only=True)
class FittedRow:
    """One row on its way to tokens. conversation: None for a row that cannot be used.

    unread: its fields that hold something and are not read.

    whole: its examples as they were; fitted: as they fit, none for a row that is left out.
    """

    place: str
    conversation: Conversation | None = None
    whole: Sequence[Pieces] = ()
    fitted: Sequence[Pieces] = ()
    findings: tuple[Finding, ...] = ()
    unread: tuple[str, ...] = ()


def tokenize_rows(
    items: Iterable[Row | Finding],
    tokenizer: Tokenizer,
    rendering: Rendering,
    *,
    batch_rows: int = BATCH_ROWS,
) -> TokenizedData:
    """Tokenize rows, `batch_rows` at a time; a finding becomes a row without examples."""
    tokens, supervised = array("i"), bytearray()
    example_ends, row_ends = array("q"), array("q")
    lengths, cut_tokens, digests = array("i"), array("i"), array("Q")
    places: list[str] = []
    findings: list[Finding] = []
    unread: dict[str, tuple[str, int]] = {}
    for row in fit_rows(items, tokenizer, rendering, batch_rows=batch_rows):
        findings += row.findings
        for name in row.unread:
            first, count = unread.get(name, (row.place, 0))
            unread[name] = (first, count + 1)
        places.append(row.place)
        for example in row.fitted:
            for span, ids in example:
                tokens.extend(ids)
                supervised += (b"\1" if span.supervised else b"\0") * len(ids)
            example_ends.append(len(tokens))
        row_ends.append(len(example_ends))
        whole = [num_tokens(example) for example in row.whole]
        lengths.append(max(whole, default=0))
        left = sum(map(num_tokens, row.fitted))
        cut_tokens.append(sum(whole) - left if row.fitted else 0)
        digests.extend((0, 0) if row.conversation is None else _digests(row.conversation))
    return TokenizedData(
        tokens=np.frombuffer(tokens, dtype=np.int32),
        supervised=np.frombuffer(supervised, dtype=np.bool_),
        example_ends=np.array(example_ends, dtype=np.int64),
        row_ends=np.array(row_ends, dtype=np.int64),
        lengths=np.array(lengths, dtype=np.int32),
        cut_tokens=np.array(cut_tokens, dtype=np.int32),
        row_digests=np.array(digests[::2], dtype=np.uint64),
        question_digests=np.array(digests[1::2], dtype=np.uint64),
        places=tuple(places),
        findings=(*findings, *(_unread(name, *found) for name, found in unread.items())),
    )


def _unread(name: str, first: str, count: int) -> Finding:
    is_thought = name in THOUGHT_KEYS
    fix = _("Leave it, if the model need not learn it.")
    if is_thought:
        fix = _("To learn it as a thought, begin the answer with it: <think>...</think>.")
    elif name in JUDGING_KEYS:
        fix = _("Answers are learned whatever it says: if it marks bad ones, remove their rows.")
    return Finding(
        place=first,
        kind="unread_thought" if is_thought else "unread_field",
        what=_("The field {name} is not read; rows with it: {count}.").format(
            name=name, count=count
        ),
        fix=fix,
        severity="warning" if is_thought else "note",
    )


def fit_rows(
    items: Iterable[Row | Finding],
    tokenizer: Tokenizer,
    rendering: Rendering,
    *,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[FittedRow]:
    """Yield one row per item: encoded, checked for suspicious texts and made to fit."""
    suspicions = Suspicions(tokenizer.control_tokens)
    for batch in _batches(items, batch_rows):
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
            if fitted and _repeats_too_much(item.conversation, rendering):
                fitted, finding = [], _too_many_answers(item)
            suspicious = suspicions.of(
                item.conversation, item.place, half_thought=item.remarks.half_thought
            )
            yield FittedRow(
                place=item.place,
                conversation=item.conversation,
                whole=found,
                fitted=fitted,
                findings=(*([finding] if finding else ()), *suspicious),
                unread=item.remarks.unread,
            )


def _batches(items: Iterable[Row | Finding], most_rows: int) -> Iterator[list[Row | Finding]]:
    """Divide items into batches of at most `most_rows`, and of not much more than BATCH_CHARACTERS.

    Tokens on their way take a hundred bytes a character.
    """
    batch: list[Row | Finding] = []
    size = 0
    for item in items:
        batch.append(item)
        if isinstance(item, Row):
            size += sum(len(m.content) + len(m.reasoning or "") for m in item.conversation.messages)
        if len(batch) == most_rows or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _repeats_too_much(conversation: Conversation, rendering: Rendering) -> bool:
    messages = conversation.messages
    answers = sum(message.role == "assistant" and message.is_learned for message in messages)
    return not rendering.mask_history and answers * len(messages) > MOST_REPEATED_MESSAGES


def _too_many_answers(row: Row) -> Finding:
    return Finding(
        place=row.place,
        kind="too_many_answers",
        what=_(
            "The row has {count} messages; each answer would be learned behind all that precede it."
        ).format(count=len(row.conversation.messages)),
        fix=_("Divide it into several rows, or learn its last answer only: --mask_history"),
    )


def _encode(
    rows: Sequence[Row], tokenizer: Tokenizer, rendering: Rendering
) -> Sequence[list[Pieces] | Finding]:
    """Encode rows; of a row that repeats too much only the example of its last answer."""
    if any(_repeats_too_much(row.conversation, rendering) for row in rows):
        if len(rows) > 1:
            return [found for row in rows for found in _encode([row], tokenizer, rendering)]
        rendering = replace(rendering, mask_history=True, train_on_prompt=False)
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


def _digests(conversation: Conversation) -> tuple[int, int]:
    """Return 64 bits of the whole row, and 64 bits of all up to the last question."""
    messages = conversation.messages
    asked = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((conversation.tools, messages[: asked + 1])).encode())
    question = digest.digest()
    digest.update(repr(messages[asked + 1 :]).encode())
    return int.from_bytes(digest.digest(), "little"), int.from_bytes(question, "little")
