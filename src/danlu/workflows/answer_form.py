"""The form of an answer: thinking tags in order, ended, not repeating itself, not empty.

Fine-tuning can break these without a visible effect on the loss. Knows the tags of `text/`; must
not know models or pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from danlu.text.conversation import Message
from danlu.text.render import THOUGHT_END, THOUGHT_START, call_text
from danlu.workflows.answers import Answer

ThoughtForm = Literal["kept", "broken", "unfinished"]

# The same piece of 4 to 80 characters five times or more in a row, letters or digits in it.
_REPEATED = re.compile(r"(.{4,80}?)\1{4,}", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class FormCounts:
    """How many answers have which form. answers: those with text, or finished.

    thought_unfinished: cut off inside a thought, so its form is unknown. endless: ended by the
    token limit. missing: no text before the deadline. refused: the prompt did not fit, or the model
    computed non-finite numbers.
    """

    answers: int
    thought_kept: int
    thought_broken: int
    thought_unfinished: int
    endless: int
    repeating: int
    empty: int
    missing: int
    refused: int


def thought_form(answer: Answer, *, enable_thinking: bool | None) -> ThoughtForm:
    """Judge the thinking tags of an answer as the model wrote them.

    enable_thinking True: the answer opens with a thought and closes it. False: it has no tags.
    None: either of the two.
    """
    raw = answer.raw.strip()
    opened, closed = raw.count(THOUGHT_START), raw.count(THOUGHT_END)
    if not opened and not closed:
        return "broken" if enable_thinking else "kept"
    if enable_thinking is False or not raw.startswith(THOUGHT_START):
        return "broken"
    if (opened, closed) == (1, 0) and answer.ended != "stop":
        return "unfinished"
    return "kept" if (opened, closed) == (1, 1) else "broken"


def repeats_itself(text: str) -> bool:
    """Tell whether a piece of text occurs five times or more in succession."""
    return any(
        any(character.isalnum() for character in found[1]) for found in _REPEATED.finditer(text)
    )


def count_forms(answers: Iterable[Answer], *, enable_thinking: bool | None) -> FormCounts:
    """Count the forms of answers."""
    everything = list(answers)
    refused = sum(answer.ended == "refused" for answer in everything)
    came = [a for a in everything if a.is_finished or (a.raw and a.ended == "time")]
    forms = [thought_form(answer, enable_thinking=enable_thinking) for answer in came]
    return FormCounts(
        answers=len(came),
        thought_kept=forms.count("kept"),
        thought_broken=forms.count("broken"),
        thought_unfinished=forms.count("unfinished"),
        endless=sum(answer.ended == "length" for answer in came),
        repeating=sum(repeats_itself(answer.raw) for answer in came),
        empty=sum(is_empty(answer) for answer in came),
        missing=len(everything) - len(came) - refused,
        refused=refused,
    )


def visible_text(message: Message) -> str:
    """Return the text and the tool calls of an answer, without its reasoning."""
    calls = [call_text(call) for call in message.tool_calls]
    return "\n".join(part for part in (message.content, *calls) if part).strip()


def is_empty(answer: Answer) -> bool:
    """Tell whether the model ended an answer without showing or calling anything."""
    return answer.ended == "stop" and not visible_text(answer.message)
