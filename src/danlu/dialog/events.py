"""What an answer consists of while it arrives: the same events whoever computes it. No torch here.

`Thought`, `Text` and `Call` come from the parser of generated text; `Usage` and `End` close every
answer that was not broken off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from danlu.text.conversation import Message
from danlu.text.parse import Call, Text, Thought

__all__ = ["Call", "End", "EndReason", "Event", "Text", "Thought", "Usage", "assistant_message"]

EndReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the answer cost: tokens read and tokens written, the end token included."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class End:
    """Why the answer ended: the model (or a stop text), the token limit, or somebody aborted it."""

    reason: EndReason


Event = Thought | Text | Call | Usage | End


def assistant_message(events: Iterable[Event]) -> Message:
    """Join the events of an answer, complete or not, to the message that belongs in the history."""
    thoughts: list[str] = []
    texts: list[str] = []
    calls = []
    for event in events:
        if isinstance(event, Thought):
            thoughts.append(event.text)
        elif isinstance(event, Text):
            texts.append(event.text)
        elif isinstance(event, Call):
            calls.append(event.call)
    return Message(
        role="assistant",
        content="".join(texts),
        # "" rather than None: a `</think>` in the visible text was text, not a thought's end.
        reasoning="".join(thoughts),
        tool_calls=tuple(calls),
    )
