"""What an answer consists of while it arrives: typed events. No torch here.

`Thought`, `Text` and `Call` come from the parser of generated text; `Usage` and `End` close every
answer that did not fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from danlu.engine.request import Output, TokenLogprobs
from danlu.text.conversation import Message
from danlu.text.parse import Call as Call
from danlu.text.parse import Text as Text
from danlu.text.parse import Thought as Thought

EndReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the answer cost: tokens read and tokens written, the end token included.

    cached_tokens: the part of the prompt that was found computed already; reasoning_tokens: the
    part of the answer that belongs to its thought.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def plus(self, output: Output, reasoning_tokens: int = 0) -> Usage:
        """Return the usage with an output's tokens; reasoning_tokens: those of its thought."""
        return replace(
            self,
            completion_tokens=self.completion_tokens + len(output.tokens),
            cached_tokens=self.cached_tokens + output.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + reasoning_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class End:
    """Why the answer ended: the model or a stop text, the token limit, or an abort."""

    reason: EndReason


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The log probabilities of tokens just written, before the events that their text became."""

    logprobs: tuple[TokenLogprobs, ...]


Event = Thought | Text | Call | Tokens | Usage | End


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
