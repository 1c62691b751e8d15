"""Texts of a row that are probably not what its author meant: thoughts and control tokens.

Such a row can be learned, and is; the findings are warnings and notes. Knows the chat format's
marks and those of other models. Must not know tokens or files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import partial

from danlu.data.findings import Finding
from danlu.language import _
from danlu.text.conversation import Conversation, Message
from danlu.text.render import THOUGHT_END, THOUGHT_START

_CONTROL = re.compile(r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id)\|>")
_OTHER_THOUGHT = re.compile(
    r"</?(?:thinking|thoughts?|reasoning|reflection|seed:think)>"
    r"|\[/?THINK\]|<\|(?:begin|end)_of_thought\|>"
    r"|<\s*/?\s*think\s*/?\s*>",
    re.IGNORECASE,
)
# LLaMA-Factory's identity.json is meant to be edited; many train it as it is.
_PLACEHOLDER = re.compile(r"\{\{ ?(?:name|author) ?\}\}")


def suspicions(conversation: Conversation, place: str) -> Collection[Finding]:
    """Return what is suspicious in the texts of a row, each kind once."""
    found: dict[str, Finding] = {}
    for message in conversation.messages:
        for text in (message.content, message.reasoning or ""):
            # No mark is without one of these: most texts are passed over quickly.
            if not any(sign in text for sign in "<[{"):
                continue
            for finding in _in_text(text, message, place):
                found.setdefault(finding.kind, finding)
    return found.values()


def _in_text(text: str, message: Message, place: str) -> Iterator[Finding]:
    warning = partial(Finding, place=place, severity="warning")
    if control := _CONTROL.search(text):
        yield warning(
            kind="control_token_text",
            what=_("The text {text} stands in the data, where it stays ordinary text.").format(
                text=control[0]
            ),
            fix=_("Remove it: the template adds the real ones."),
        )
    if placeholder := _PLACEHOLDER.search(text):
        yield warning(
            kind="placeholder",
            what=_("The placeholder {text} was not filled in.").format(text=placeholder[0]),
            fix=_("Write the real name in its place."),
        )
    has_thought = THOUGHT_START in text or THOUGHT_END in text
    if message.role != "assistant" and has_thought:
        yield Finding(
            place=place,
            kind="thought_in_question",
            what=_("A think tag stands in a message of the role {role}.").format(role=message.role),
            fix=_("Remove it, unless it is meant to be there."),
            severity="note",
        )
    elif has_thought:
        # Whole thoughts have been taken out of the answer: this is half of one.
        yield warning(
            kind="open_thought",
            what=_("A thought is opened and not closed, or closed and not opened."),
            fix=_("Write <think>, the reasoning, </think>, and then the answer."),
        )
    elif message.role == "assistant" and (other := _OTHER_THOUGHT.search(text)):
        yield warning(
            kind="foreign_thought",
            what=_("The tag {tag} is not Qwen3's: it is learned as visible text.").format(
                tag=other[0]
            ),
            fix=_("Write reasoning between <think> and </think>."),
        )
