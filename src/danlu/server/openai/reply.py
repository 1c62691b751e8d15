"""What a route makes of outputs, and the loop between the two. Must not know HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from danlu.engine.request import Output, Request
from danlu.server.openai.answers import Answers

Json = dict[str, Any]


class Reply(Protocol):
    """The answer to one HTTP request, as chunks while it comes and as a whole."""

    @property
    def requests(self) -> Sequence[Request]:
        """What to hand to the engine."""

    def opening(self) -> list[Json]:
        """Return the chunks that stand before all outputs."""

    def feed(self, index: int, output: Output) -> list[Json]:
        """Take an output of the request at a place; return the chunks it makes."""

    def has_enough(self, index: int) -> bool:
        """Whether nothing more of this request is wanted."""

    def closing(self) -> list[Json]:
        """Return the chunks that stand behind all outputs."""

    def whole(self) -> Json:
        """Return the answer in one piece."""


async def advance(
    answers: Answers, reply: Reply, seconds: float | None = None
) -> list[Json] | None:
    """Hand the next output to the reply; return its chunks, or None where none comes in time."""
    arrived = await answers.next(seconds)
    if arrived is None:
        return None
    chunks = reply.feed(*arrived)
    if reply.has_enough(arrived[0]):
        answers.cancel(arrived[0])
    return chunks
