"""Numbered events that a page follows, and gets again where it lost the connection.

Events are added on the event loop; any number of pages follow one log, each from the number that it
has seen last. Source: the HTML standard, server-sent events (id, Last-Event-ID).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from danlu.server.state import state_of

# A stream without events sends a comment after this long, so that no proxy closes it.
COMMENT_SECONDS = 2.0
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
Event = Mapping[str, Any]


class EventLog:
    """What has happened so far, and whether more will."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_over = False
        self._news = asyncio.Event()

    def add(self, event: Event) -> None:
        """Add an event; on the event loop."""
        self.events.append(json.dumps(event, ensure_ascii=False, allow_nan=False))
        self._wake()

    def end(self) -> None:
        """Say that nothing follows."""
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, seen: int = 0) -> AsyncIterator[tuple[int, str] | None]:
        """Yield (number, event) of all behind `seen`, as they come; None where none came lately."""
        while True:
            while seen < len(self.events):
                seen += 1
                yield seen, self.events[seen - 1]
            if self.is_over:
                return
            news = self._news
            try:
                await asyncio.wait_for(news.wait(), COMMENT_SECONDS)
            except asyncio.TimeoutError:
                yield None


def seen_before(request: Request) -> int:
    """Return the number of the last event that a page has seen; 0 for none."""
    given = request.headers.get("last-event-id") or request.query_params.get("seen") or "0"
    return int(given) if given.isascii() and given.isdigit() and len(given) < 12 else 0


def stream(request: Request, pieces: AsyncIterator[tuple[int, str] | None]) -> StreamingResponse:
    """Send numbered events; `event: end` tells the page not to come back.

    A server that is about to stop hangs up without it: the page comes back to the next one.
    """

    async def lines() -> AsyncIterator[str]:
        told = time.monotonic()
        async for piece in pieces:
            if piece is not None:
                yield f"id: {piece[0]}\ndata: {piece[1]}\n\n"
            elif state_of(request.app).is_stopping:
                return
            elif time.monotonic() >= told + COMMENT_SECONDS:
                yield ": still here\n\n"
            else:
                continue
            told = time.monotonic()
        yield "event: end\ndata: {}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers=_HEADERS)
