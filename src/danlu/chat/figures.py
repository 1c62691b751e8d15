"""What an answer took: measured while its events go by. Must not know screens."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from danlu.dialog.events import Call, End, Event, Text, Thought, Usage, assistant_message
from danlu.language import _
from danlu.text.conversation import Message

_Found = TypeVar("_Found", Usage, End)


class AnswerFigures:
    """The events of an answer and their times, in seconds since it was asked for.

    first_s: until the first of its text, thoughts included; thought_s: how long the thought took.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.first_s: float | None = None
        self.thought_s: float | None = None
        self.last_s = 0.0
        self._start = time.monotonic()

    def watch(self, events: Iterable[Event]) -> Iterator[Event]:
        """Pass the events on and note when they came."""
        for event in events:
            self.last_s = time.monotonic() - self._start
            self.events.append(event)
            if isinstance(event, Thought | Text | Call):
                if self.first_s is None:
                    self.first_s = self.last_s
                if isinstance(event, Thought) or self._thinks:
                    self.thought_s = self.last_s - self.first_s
                self._thinks = isinstance(event, Thought)
            yield event

    _thinks = False

    @property
    def message(self) -> Message:
        """The answer as far as it came."""
        return assistant_message(self.events)

    @property
    def usage(self) -> Usage | None:
        """What it cost; None where it was stopped."""
        return self._last(Usage)

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped before its end."""
        return self._last(End) is None

    @property
    def is_cut(self) -> bool:
        """Whether the limit of its length ended it."""
        end = self._last(End)
        return end is not None and end.reason == "length"

    @property
    def tokens_per_s(self) -> float | None:
        """How fast it was written after its first token; None for less than two tokens."""
        if self.usage is None or self.first_s is None or self.usage.completion_tokens < 2:
            return None
        return (self.usage.completion_tokens - 1) / max(self.last_s - self.first_s, 1e-6)

    def line(self, context_tokens: int | None) -> str:
        """Write the figures on one line; context_tokens: the longest prompt and answer."""
        parts = []
        if self.first_s is not None:
            parts.append(_("first token {seconds:.2f} s").format(seconds=self.first_s))
        if self.tokens_per_s is not None:
            parts.append(_("{speed:.1f} tokens/s").format(speed=self.tokens_per_s))
        if self.usage is not None:
            used = self.usage.prompt_tokens + self.usage.completion_tokens
            parts.append(context_share(used, context_tokens))
        return " · ".join(parts)

    def _last(self, kind: type[_Found]) -> _Found | None:
        found = [event for event in self.events if isinstance(event, kind)]
        return found[-1] if found else None


def context_share(used: int, context_tokens: int | None) -> str:
    """Say how much of the context is used."""
    if context_tokens is None:
        return _("context {used:,} tokens").format(used=used)
    return _("context {used:,} of {all:,} tokens ({share:.0%})").format(
        used=used, all=context_tokens, share=used / context_tokens
    )
