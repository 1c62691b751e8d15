"""The alpaca format: instruction, input, output, with system and history where a row has them.

The format is LLaMA-Factory's: the user's text is instruction + newline + input; history is a list
of [user, assistant] pairs, whose answers are learned too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.data.findings import BadRow
from danlu.language import _
from danlu.text.conversation import Conversation, Message
from danlu.text.render import split_reasoning

# Our names for the parts of a row, and the columns they are read from unless told otherwise.
DEFAULT_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}


def conversation_of(row: Any, columns: Mapping[str, str]) -> Conversation:
    """Turn a row into a conversation that ends with the answer to learn. Raises BadRow."""
    if not isinstance(row, Mapping):
        raise BadRow(
            "not_an_object",
            _("The row is not an object."),
            _("Write {...} with instruction and output."),
        )
    prompt, query = _text(row, columns["prompt"]), _text(row, columns["query"])
    question = "\n".join(part for part in (prompt, query) if part)
    response = _text(row, columns["response"])
    if not question.strip():
        raise BadRow(
            "empty_question",
            _("The question is empty."),
            _("Fill in {name}.").format(name=columns["prompt"]),
        )
    if not response.strip():
        raise BadRow(
            "empty_answer",
            _("The answer is empty."),
            _("Fill in {name}.").format(name=columns["response"]),
        )
    messages = list(_history(row.get(columns["history"]), columns["history"]))
    system = _text(row, columns["system"])
    if system:
        messages.insert(0, Message(role="system", content=system))
    messages += [Message(role="user", content=question), _answer(response)]
    return Conversation(messages=tuple(messages))


def _history(value: Any, name: str) -> list[Message]:
    if value is None:
        return []
    fix = _("Write {name} as a list of [question, answer] pairs.").format(name=name)
    if not isinstance(value, list):
        raise BadRow("wrong_history", _("{name} is not a list.").format(name=name), fix)
    messages: list[Message] = []
    for pair in value:
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise BadRow(
                "wrong_history", _("{name} holds something else than pairs.").format(name=name), fix
            )
        messages += [Message(role="user", content=pair[0]), _answer(pair[1])]
    return messages


def _answer(text: str) -> Message:
    reasoning, content = split_reasoning(text)
    return Message(role="assistant", content=content, reasoning=reasoning)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(
            "not_text",
            _("{name} is not text.").format(name=name),
            _("Put it between quotation marks."),
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRow(
            "lone_surrogate",
            _("{name} holds half a character (a lone surrogate).").format(name=name),
            _("Remove it, or write the whole character."),
        )
    return value
