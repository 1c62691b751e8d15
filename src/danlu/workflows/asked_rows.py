"""A row of a user's file as a question: what a model is asked, whatever the row calls it.

The formats are those of training rows (`data/formats`), with the answer left out: a prompt, or
alpaca's instruction and input; messages of OpenAI or sharegpt. An answer at a row's end is what the
model's own will be compared with, and is not shown to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from danlu.data.findings import BadRow
from danlu.data.formats.fields import row_object, structure
from danlu.data.formats.format import DEFAULT_COLUMNS, Format, format_of
from danlu.data.formats.known_keys import ROW_KEYS
from danlu.data.formats.recognise import PROMPT_NAMES, format_of_messages, own_names
from danlu.language import _
from danlu.text.conversation import Conversation, Message

# What says how good an answer is concerns no question.
_OF_TRAINING = ("preference", "judgement")
# Every format ends with an answer: one is put there, and taken away with what it stands for.
_ANSWER = "answer"
_ANSWER_COLUMN = "the answer of the model"


def question_of_row(content: Any, *, system: str | None = None) -> Conversation:
    """Return what a row asks; system: the system prompt where the row has none. Raises BadRow."""
    row = {key: value for key, value in row_object(content).items() if not _is_of_training(key)}
    if isinstance(row.get("prompt"), list):  # messages under that name
        row["messages"] = row.pop("prompt")
    conversation = _of_messages(row) or _of_prompt(row)
    if conversation is None:
        raise BadRow(
            "no_question",
            _("The row asks nothing; it has the fields {names}.").format(
                names=", ".join(map(str, row))
            ),
            _("Name its question prompt, or instruction and input, or give messages."),
        )
    messages = conversation.messages[:-1]
    if system and messages[0].role != "system":
        messages = (Message(role="system", content=system), *messages)
    return replace(conversation, messages=messages)


def _of_messages(row: Mapping[str, Any]) -> Conversation | None:
    found = format_of_messages(row)
    if found is None:
        return None
    form, _origin = found
    column, tags = form.columns["messages"], form.tags
    entries = list(structure(row[column], column))
    answering = (tags["assistant_tag"], tags.get("function_tag"))
    last = entries[-1]
    if isinstance(last, Mapping) and last.get(tags["role_tag"]) in answering:
        entries.pop()
    entries.append({tags["role_tag"]: tags["assistant_tag"], tags["content_tag"]: _ANSWER})
    conversation, _remarks = form.read_row({**row, column: entries})
    return conversation


def _of_prompt(row: Mapping[str, Any]) -> Conversation | None:
    own = own_names(row)
    names = [own[name] for name in PROMPT_NAMES if name in own]
    if not names and "input" not in own:
        return None
    columns = {part: own[name] for part, name in DEFAULT_COLUMNS["alpaca"].items() if name in own}
    if names:
        columns["prompt"] = names[0]
    form: Format = format_of("alpaca", columns={**columns, "response": _ANSWER_COLUMN})
    conversation, _remarks = form.read_row({**row, _ANSWER_COLUMN: _ANSWER})
    return conversation


def _is_of_training(name: str) -> bool:
    key = ROW_KEYS.get(name)
    return key is not None and key.meaning in _OF_TRAINING
