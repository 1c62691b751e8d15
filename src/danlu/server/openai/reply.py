"""What the answers of chat and completions have in common. Must not know HTTP or the queue."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from danlu.dialog.events import Usage
from danlu.engine.request import Output, Request
from danlu.server.openai.requests import SamplingBody

Json = dict[str, Any]


class Reply(ABC):
    """The answer to one HTTP request: chunks while it is computed, or one body.

    requests: what the engine computes, one for each choice; `index` means the place in it.
    """

    requests: Sequence[Request]

    def __init__(self, body: SamplingBody, *, model: str, prefix: str, kind: str) -> None:
        self._choices_per_prompt = body.choices
        self._include_usage = body.include_usage
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
    def whole_choices(self) -> list[Json]:
        """Return the choices of a complete answer."""

    @abstractmethod
    def usages(self) -> list[Usage]:
        """Return what each choice of a complete answer cost."""

    def has_enough(self, index: int) -> bool:
        """Whether the rest of a request's outputs is not wanted."""
        return False

    def closing(self) -> list[Json]:
        """Return the chunks that come after all outputs: the usage, where it was asked for."""
        return [self._head | {"choices": [], "usage": self._usage()}] if self._include_usage else []

    def whole(self) -> Json:
        """Return the body of an answer in one piece."""
        return self._head | {"choices": self.whole_choices(), "usage": self._usage()}

    def chunk(
        self, index: int, content: Json, logprobs: Json | None = None, end: str | None = None
    ) -> Json:
        """Write a chunk of one choice. end: why the choice ends with it."""
        chunk = self._head | {"choices": [choice_fields(index, content, logprobs, end)]}
        return chunk | ({"usage": None} if self._include_usage else {})

    def _usage(self) -> Json:
        n, usages = self._choices_per_prompt, self.usages()
        return usage_fields([usages[first : first + n] for first in range(0, len(usages), n)])


def choice_fields(index: int, content: Json, logprobs: Json | None, end: str | None) -> Json:
    """Write one choice, whole or a piece of it."""
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": end}


def usage_fields(prompts: Sequence[Sequence[Usage]]) -> Json:
    """Add up usages. prompts: for each prompt those of its answers, which share reading it."""
    prompt = sum(usages[0].prompt_tokens for usages in prompts)
    completion = sum(usage.completion_tokens for usages in prompts for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            # The first answer to a prompt may have computed what the others found.
            "cached_tokens": sum(min(u.cached_tokens for u in usages) for usages in prompts)
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(u.reasoning_tokens for usages in prompts for u in usages)
        },
    }
