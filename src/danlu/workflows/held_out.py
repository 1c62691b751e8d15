"""Rows to judge a model by: those a run held out, or the rows of any data set.

Reports and scores read data only here. Knows settings and data; must not know models.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.data.datasets import Row, find_datasets, named_datasets, rows_of
from danlu.data.doctor.check import usable_data
from danlu.data.findings import Finding, listed
from danlu.data.tokens.examples import Example
from danlu.errors import DataError
from danlu.language import _
from danlu.text.conversation import Conversation, Message
from danlu.text.tokenizer import Tokenizer
from danlu.train.settings import TrainSettings

# Of more rows than this only every so many-th is looked at, and of each the beginning of an answer.
_LOOKED_AT_ROWS = 2000
_LOOKED_AT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Question:
    """A row's last question: the conversation before its last answer, and that answer.

    place: file and line of the row.
    """

    place: str
    conversation: Conversation
    reference: Message


@dataclass(frozen=True, kw_only=True)
class JudgedRows:
    """Rows as questions and as tokens, drawn from `total`. held_out: training never saw them.

    fingerprint: that of all rows of the run; it differs once the data has changed.
    """

    held_out: bool
    total: int
    questions: tuple[Question, ...]
    rows: Sequence[Sequence[Example]]
    fingerprint: str


def judged_rows(settings: Mapping[str, Any], tokenizer: Tokenizer, *, limit: int) -> JudgedRows:
    """Read the held-out rows of a run: all of them as tokens, `limit` of them as questions.

    settings: those recorded in run.json. If no rows were held out: `limit` training rows. They are
    drawn over all rows, see `drawn`. Raises UsageError or DataError where the data cannot be read.
    """
    known = {name: settings[name] for name in TrainSettings.model_fields if name in settings}
    wanted = TrainSettings.model_validate(known)
    data = usable_data(wanted, tokenizer)
    held_out = bool(data.held_out)
    rows = data.held_out if held_out else data.train
    chosen = drawn(rows, tokenizer, limit)
    places = rows.places
    names = (wanted.eval_dataset if held_out else "") or wanted.dataset
    asked = _rows_at([places[index] for index in chosen], names, wanted)
    return JudgedRows(
        held_out=held_out,
        total=len(rows),
        questions=tuple(map(question_of, asked)),
        rows=rows if held_out else [rows[index] for index in chosen],
        fingerprint=data.fingerprint(),
    )


def drawn(rows: Sequence[Sequence[Example]], tokenizer: Tokenizer, count: int) -> list[int]:
    """Draw rows that stand for all: spread over the scripts of their answers, then over lengths.

    Returns indices, rising. The same rows give the same indices.
    """

    def rank(index: int) -> tuple[str, int]:
        answers = [int(t) for e in rows[index] for t in e.tokens[e.supervised][:_LOOKED_AT_TOKENS]]
        return _script(tokenizer.decode(answers)), sum(len(e.tokens) for e in rows[index])

    ranked = sorted(range(0, len(rows), max(1, len(rows) // _LOOKED_AT_ROWS)), key=rank)
    if len(ranked) <= count:
        return sorted(ranked)
    # The middle of each of `count` equal parts.
    return sorted(ranked[(2 * part + 1) * len(ranked) // (2 * count)] for part in range(count))


def _script(text: str) -> str:
    """Name the script that most letters are in, as Unicode names it: LATIN, CJK, CYRILLIC."""
    counts = Counter(unicodedata.name(c, "").partition(" ")[0] for c in text if c.isalpha())
    return max(counts, key=lambda name: (counts[name], name), default="")


def read_dataset(names: str, dataset_dir: Path, *, max_samples: int | None) -> list[Row]:
    """Read all rows of data sets. Raises UsageError, or DataError listing what cannot be used."""
    items = list(rows_of(find_datasets(names, dataset_dir, max_samples=max_samples, seed=42)))
    findings = [item for item in items if isinstance(item, Finding)]
    if findings:
        raise DataError(
            _("{count} of {total} rows of {name} cannot be used.").format(
                count=len(findings), total=len(items), name=names
            ),
            why=listed(findings),
            fix=_("Correct or remove these rows, then start again."),
        )
    if not items:
        raise DataError(
            _("The data set {name} has no rows.").format(name=names),
            why=_("There is nothing to answer and nothing to compare with."),
            fix=_('Add rows such as {"instruction": "...", "output": "..."}'),
        )
    return [item for item in items if isinstance(item, Row)]


def question_of(row: Row) -> Question:
    """Split a row at its last answer that is to be learned."""
    messages = row.conversation.messages
    last = max(i for i, m in enumerate(messages) if m.role == "assistant" and m.is_learned)
    return Question(
        place=row.place,
        conversation=replace(row.conversation, messages=messages[:last]),
        reference=messages[last],
    )


def _rows_at(places: Sequence[str], names: str, settings: TrainSettings) -> list[Row]:
    """Read the rows at some places, in the order of the places; missing rows are left out."""
    found: dict[str, Row] = {}
    for item in rows_of(named_datasets(names, settings)):
        if isinstance(item, Row) and item.place in places:
            found[item.place] = item
            if len(found) == len(set(places)):
                break
    return [found[place] for place in places if place in found]
