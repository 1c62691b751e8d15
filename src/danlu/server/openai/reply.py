"""What the answers of chat and completions have in common. Must not know HTTP or the queue."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from danlu.dialog.events import Usage
from danlu.engine.request import Output, Request
from danlu.server.openai.requests import SamplingBody, StreamOptions

Json = dict[str, Any]


class Reply(ABC):
    """The answer to one HTTP request: chunks while it is computed, or one body.

    requests: what the engine computes, one for each choice; `index` means the place in it.
    is_streamed: what has become a chunk is not needed again. Log probabilities, some kilobytes a
    token, are then not kept.
    """

    requests: Sequence[Request]

    def __init__(self, body: SamplingBody, *, model: str, prefix: str, kind: str) -> None:
        self.is_streamed = bool(body.stream)
        self._choices_per_prompt = body.choices
        options = body.stream_options or StreamOptions()
        self._include_usage = bool(options.include_usage)
        self._has_usage_in_chunks = bool(options.continuous_usage_stats)
        self._head: Json = {
            "id": f"{prefix}-{secrets.token_hex(16)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }

    @abstractmethod
    def opening(self) -> list[Json]:
        """Return the chunks that come before all outputs."""

    @abstractmethod
    def feed(self, index: int, output: Output) -> list[Json]:
        """Take an output of a request; return the chunks that it makes."""

    @abstractmethod
    def whole_choice(self, index: int) -> Json:
        """Return a choice of a complete answer."""

    @abstractmethod
    def usages(self) -> list[Usage]:
        """Return what each choice has cost so far."""

    def has_enough(self, index: int) -> bool:
        """Whether the rest of a request's outputs is not wanted."""
        return False

    def closing(self) -> list[Json]:
        """Return the chunks that come after all outputs: the usage, where it was asked for."""
        return [self._head | {"choices": [], "usage": self._usage()}] if self._include_usage else []

    def whole(self) -> Json:
        """Return the body of an answer in one piece."""
        choices = [self.whole_choice(index) for index in range(len(self.requests))]
        return self._head | {"choices": choices, "usage": self._usage()}

    def chunk(
        self, index: int, content: Json, logprobs: Json | None = None, end: str | None = None
    ) -> Json:
        """Write a chunk of one choice. end: why the choice ends with it."""
        chunk = self._head | {"choices": [choice_fields(index, content, logprobs, end)]}
        if self._has_usage_in_chunks:
            return chunk | {"usage": self._usage()}
        return chunk | ({"usage": None} if self._include_usage else {})

    def _usage(self) -> Json:
        """Add up the choices' usages; the answers to one prompt share reading it."""
        n, usages = self._choices_per_prompt, self.usages()
        prompts = [usages[first : first + n] for first in range(0, len(usages), n)]
        read = sum(answers[0].prompt_tokens for answers in prompts)
        written = sum(usage.completion_tokens for usage in usages)
        # The first answer to a prompt may have computed what the others found.
        cached = sum(min(usage.cached_tokens for usage in answers) for answers in prompts)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {
                "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)
            },
        }


def choice_fields(index: int, content: Json, logprobs: Json | None, end: str | None) -> Json:
    """Write one choice, whole or a piece of it."""
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": end}
