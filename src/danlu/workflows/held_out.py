"""Rows to judge a model by: those a run held out, or the rows of any data set.

Reports and scores read data only here. Knows settings and data; must not know models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from danlu.data.datasets import Row, find_datasets
from danlu.data.findings import Finding, listed
from danlu.data.tokens.examples import Example
from danlu.errors import DataError
from danlu.language import _
from danlu.text.conversation import Conversation, Message
from danlu.text.tokenizer import Tokenizer
from danlu.train.job.dataset import data_fingerprint, prepare_data
from danlu.train.settings import TrainSettings


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
    """Rows as questions and as tokens. held_out: whether training never saw them.

    fingerprint: that of all rows of the run; it differs once the data has changed.
    """

    held_out: bool
    questions: tuple[Question, ...]
    rows: Sequence[Sequence[Example]]
    fingerprint: str


def judged_rows(settings: Mapping[str, Any], tokenizer: Tokenizer, *, limit: int) -> JudgedRows:
    """Read the held-out rows of a run: all of them as tokens, the first `limit` as questions.

    settings: those recorded in run.json. If no rows were held out: the first `limit` training rows.
    Raises UsageError or DataError where the data cannot be read.
    """
    known = {name: settings[name] for name in TrainSettings.model_fields if name in settings}
    wanted = TrainSettings.model_validate(known)
    data = prepare_data(wanted, tokenizer)
    held_out = bool(data.held_out)
    rows, places, names = data.train[:limit], data.train.places, wanted.dataset
    if held_out:
        rows, places = data.held_out, data.held_out.places
        names = wanted.eval_dataset or names
    chosen = _rows_at(places[:limit], names, wanted)
    return JudgedRows(
        held_out=held_out,
        questions=tuple(map(question_of, chosen)),
        rows=rows,
        fingerprint=data_fingerprint(data),
    )


def read_dataset(names: str, dataset_dir: Path, *, max_samples: int | None) -> list[Row]:
    """Read all rows of data sets. Raises UsageError, or DataError listing what cannot be used."""
    datasets = find_datasets(names, dataset_dir, max_samples=max_samples, seed=42)
    items = [item for dataset in datasets for item in dataset.rows()]
    findings = [item for item in items if isinstance(item, Finding)]
    if findings:
        raise DataError(
            _("{count} of {total} rows of {name} cannot be used.").format(
                count=len(findings), total=len(items), name=names
            ),
            why="\n".join(listed(findings)),
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
    """Split a row at its last answer."""
    messages = row.conversation.messages
    last = max(i for i, message in enumerate(messages) if message.role == "assistant")
    return Question(
        place=row.place,
        conversation=replace(row.conversation, messages=messages[:last]),
        reference=messages[last],
    )


def _rows_at(places: Sequence[str], names: str, settings: TrainSettings) -> list[Row]:
    """Read the rows at some places, in the order of the places; missing rows are left out."""
    datasets = find_datasets(
        names,
        Path(settings.dataset_dir),
        max_samples=settings.max_samples,
        seed=settings.seed,
    )
    found: dict[str, Row] = {}
    for item in chain.from_iterable(dataset.rows() for dataset in datasets):
        if isinstance(item, Row) and item.place in places:
            found[item.place] = item
            if len(found) == len(set(places)):
                break
    return [found[place] for place in places if place in found]
