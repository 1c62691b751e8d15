"""Answers: the text, the thought in it or beside it, and whether it is to be learned.

Shared by all formats. Every fault is a BadRow that names the field and the fix. Knows no columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from danlu.data.findings import BadRow
from danlu.data.formats import fields
from danlu.data.formats.known_keys import MARK_KEYS, THOUGHT_KEYS
from danlu.language import _
from danlu.text.conversation import Message, ToolCall
from danlu.text.render import THOUGHT_END, THOUGHT_START, split_reasoning

# What tools write for "learn this" and "do not learn this".
_SAID = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def answer(value: Any, name: object, calls: tuple[ToolCall, ...] = ()) -> Message:
    """Return an answer, its reasoning apart. Raises BadRow where there is nothing to learn."""
    whole = fields.text(value, name)
    reasoning, content = split_reasoning(whole)
    bare = whole.replace(THOUGHT_START, "").replace(THOUGHT_END, "")
    kept = f"{reasoning or ''}{content}"
    # The template's rule drops what stands before a thought or between several.
    if THOUGHT_END in whole and bare.replace("\n", "") != kept.replace("\n", ""):
        raise BadRow(
            "several_thoughts",
            _("{name} has text before its thought, or several thoughts.").format(name=name),
            _("Keep one <think>...</think>, at the beginning: the rest would be lost."),
        )
    if not content.strip() and not calls:
        raise BadRow(
            "empty_answer",
            _("The answer is empty.")
            if reasoning is None
            else _("The answer is empty behind its reasoning."),
            _("Fill in {name}.").format(name=name),
        )
    return Message(role="assistant", content=content, reasoning=reasoning, tool_calls=calls)


def with_its_keys(message: Message, entry: Mapping[str, Any], number: int) -> Message:
    """Add to an answer what the other keys of its message say. Raises BadRow."""
    reasoning = _thought(entry, number)
    if reasoning and message.reasoning is not None:
        raise BadRow(
            "two_thoughts",
            _("Message {number} has its reasoning twice, apart and in the text.").format(
                number=number
            ),
            _("Remove one of them."),
        )
    return replace(
        message,
        reasoning=reasoning or message.reasoning,
        is_learned=_is_learned(entry, number),
    )


def closes_a_thought_only(text: Any) -> bool:
    """Tell whether an answer's text ends a thought that it does not begin."""
    return isinstance(text, str) and THOUGHT_END in text and THOUGHT_START not in text


def _thought(entry: Mapping[str, Any], number: int) -> str | None:
    """Return the thought that stands beside the text, under whichever of its names."""
    given = {key: value for key, value in entry.items() if key in THOUGHT_KEYS and value}
    if not given:
        return None
    texts = {
        key: fields.text(value, _("{tag} of message {number}").format(tag=key, number=number))
        for key, value in given.items()
        if isinstance(value, str)
    }
    if not texts:
        key = next(iter(given))
        raise BadRow(
            "not_text",
            _("{tag} of message {number} is not text.").format(tag=key, number=number),
            _("Write the thought as text, in reasoning_content."),
        )
    if len(set(texts.values())) > 1:
        raise BadRow(
            "two_thoughts",
            _("Message {number} has several thoughts: {keys}.").format(
                number=number, keys=", ".join(texts)
            ),
            _("Remove all but one of them."),
        )
    return next(iter(texts.values()), None)


def _is_learned(entry: Mapping[str, Any], number: int) -> bool:
    """Read the marks of a message that say whether its answer is to be learned."""
    said: dict[str, bool] = {}
    for key, value in entry.items():
        if key not in MARK_KEYS or value is None or value == "":
            continue
        meant = _SAID.get(_as_word(value))
        if meant is None:
            raise BadRow(
                "weight",
                _("Message {number} has {key} {value}; an answer is learned or not.").format(
                    number=number, key=key, value=value
                ),
                _("Write 1 or 0."),
            )
        said[key] = meant
    if len(set(said.values())) > 1:
        raise BadRow(
            "weight",
            _("The marks of message {number} contradict each other: {keys}.").format(
                number=number, keys=", ".join(said)
            ),
            _("Remove all but one of them."),
        )
    return all(said.values())


def _as_word(value: Any) -> str:
    """Write a mark as the word that it stands for: 0.0, "0" and 0 are one."""
    word = str(value).strip().lower()
    try:
        return f"{float(word):g}"
    except ValueError:
        return word
