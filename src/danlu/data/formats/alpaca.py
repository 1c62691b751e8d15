"""The alpaca format: instruction, input, output, with system and history where a row has them.

The format is LLaMA-Factory's: the user's text is instruction + newline + input; history is a list
of [user, assistant] pairs, whose answers are learned too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from danlu.data.findings import BadRow, Remarks
from danlu.data.formats import answer_fields, fields, known_keys
from danlu.language import _
from danlu.text.conversation import Conversation, Message

# Our names for the parts of a row, and the columns they are read from unless told otherwise.
DEFAULT_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
    "tools": "tools",
}


def read_row(row: Any, columns: Mapping[str, str]) -> tuple[Conversation, Remarks]:
    """Turn a row into a conversation that ends with the answer to learn. Raises BadRow."""
    row = fields.row_object(row)
    known_keys.refuse_row(row, columns.values())
    asked = [columns[part] for part in ("prompt", "query") if part in columns]
    missing = [columns["response"]] if columns["response"] not in row else []
    if not any(name in row for name in asked):
        missing.insert(0, asked[0])
    if missing:
        raise fields.missing_columns(row, missing)
    parts = [fields.text(row.get(name), name) for name in asked]
    question = "\n".join(part for part in parts if part)
    if not question.strip():
        raise BadRow(
            "empty_question",
            _("The question is empty."),
            _("Fill in {name}.").format(name=asked[0]),
        )
    name = columns.get("history", "")
    pairs = fields.structure(fields.column(row, columns, "history"), name) or []
    pairs = pairs if isinstance(pairs, list) else [pairs]
    messages = _history(pairs, name)
    system = fields.text(fields.column(row, columns, "system"), columns.get("system", ""))
    if system:
        messages.insert(0, Message(role="system", content=system))
    messages.append(Message(role="user", content=question))
    response = row.get(columns["response"])
    messages.append(answer_fields.answer(response, columns["response"]))
    tools = fields.tools(fields.column(row, columns, "tools"), columns.get("tools", ""))
    answers = (response, *(answer for _question, answer in pairs))
    remarks = Remarks(
        unread=tuple(known_keys.unread_in_row(row, columns.values())),
        half_thought=any(map(answer_fields.closes_a_thought_only, answers)),
    )
    return Conversation(messages=tuple(messages), tools=tools), remarks


def _history(pairs: Sequence[Any], name: str) -> list[Message]:
    messages: list[Message] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(
                "wrong_history",
                _("{name} holds something else than pairs.").format(name=name),
                _("Write {name} as a list of [question, answer] pairs.").format(name=name),
            )
        question = fields.text(pair[0], name)
        if not question.strip():
            raise BadRow(
                "empty_question",
                _("A question in {name} is empty.").format(name=name),
                _("Fill it in, or remove it together with its answer."),
            )
        messages += [Message(role="user", content=question), answer_fields.answer(pair[1], name)]
    return messages
