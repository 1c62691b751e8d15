"""The rows a run is judged by: those it held out, or where there are none, its first training rows.

The one place where reports read a run's data again. Knows settings and data; must not know models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.data.datasets import Row, load_rows
from danlu.data.examples import Example
from danlu.data.order import split
from danlu.text.conversation import Conversation, Message
from danlu.text.tokenizer import Tokenizer
from danlu.train.prepare import prepare_data
from danlu.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Question:
    """A row's last question: the conversation up to it, and the answer that the row gives."""

    place: str
    conversation: Conversation
    reference: Message


@dataclass(frozen=True, kw_only=True)
class JudgedRows:
    """Rows as questions and as tokens. held_out: whether training never saw them.

    fingerprint: that of all the run's rows, to tell whether the data has changed since.
    """

    held_out: bool
    questions: tuple[Question, ...]
    rows: Sequence[Sequence[Example]]
    fingerprint: str


def judged_rows(settings: Mapping[str, Any], tokenizer: Tokenizer, *, limit: int) -> JudgedRows:
    """Read what a run's recorded settings name: all judged rows as tokens, `limit` as questions.

    Raises UsageError or DataError where the data cannot be read (any more).
    """
    known = {name: settings[name] for name in TrainSettings.model_fields if name in settings}
    wanted = TrainSettings.model_validate(known)
    prepared = prepare_data(wanted, tokenizer)
    rows = load_rows(wanted.dataset, Path(wanted.dataset_dir), max_samples=wanted.max_samples)
    train, held_out = split(len(rows), val_size=wanted.val_size, seed=wanted.seed)
    has_held_out = bool(prepared.eval_rows)
    # In the file's order, which is the order a reader would look them up in.
    chosen = sorted(map(int, held_out if has_held_out else train))[:limit]
    return JudgedRows(
        held_out=has_held_out,
        questions=tuple(question_of(rows[index]) for index in chosen),
        rows=prepared.eval_rows if has_held_out else prepared.train_rows[:limit],
        fingerprint=prepared.fingerprint,
    )


def question_of(row: Row) -> Question:
    """Take a row apart at its last answer."""
    messages = row.conversation.messages
    last = max(i for i, message in enumerate(messages) if message.role == "assistant")
    return Question(
        place=row.place,
        conversation=replace(row.conversation, messages=messages[:last]),
        reference=messages[last],
    )
