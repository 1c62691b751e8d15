"""How much one request and one key may ask for: headers, body, requests at once.

Inner layers get the body in one piece, already checked; then the client's disconnection as usual.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.container import memory_bytes
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.logs import escaped
from danlu.server.edge.request_body import BodyRoom, check_form, check_no_body, read_json
from danlu.server.settings import ServeSettings
from danlu.server.state import record_of

MAX_HEADER_BYTES = 16 * 1024
# All bodies under way may take one part of so many of the memory; what they become takes more.
_MEMORY_PART = 16

_log = logging.getLogger(__name__)


class Limits:
    """ASGI middleware that lets through only requests of bounded size and number."""

    def __init__(
        self, app: ASGIApp, *, settings: ServeSettings, streamed: frozenset[str] = frozenset()
    ) -> None:
        """streamed: paths whose routes read and bound their body themselves."""
        self._app = app
        self._settings = settings
        self._streamed = streamed
        self._running: Counter[str] = Counter()
        self._room = BodyRoom(max(memory_bytes() // _MEMORY_PART, 4 * settings.max_body_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _check_header_size(scope)
        headers = Headers(scope=scope)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            check_no_body(headers)
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        if scope["path"] in self._streamed:
            with self._counted(record.key):
                await self._app(scope, receive, send)
            return
        check_form(headers)
        with self._counted(record.key), self._room.part() as take:
            limit = self._settings.max_body_bytes
            body = await read_json(headers, receive, limit=limit, take=take)
            if self._settings.log_prompts:
                # On a thread: escaping four megabytes takes a while.
                text = await asyncio.to_thread(escaped, body.decode("utf-8"))
                await asyncio.to_thread(_log.info, "request %s body %s", record.id, text)
            await self._app(scope, _replaying(body, receive), send)

    @contextmanager
    def _counted(self, key: str) -> Iterator[None]:
        """Count a request among those of its key while it runs."""
        limit = self._settings.max_requests_per_key
        if limit is not None and self._running[key] >= limit:
            raise ApiError(
                429,
                _("This key has {limit} requests running, which is its limit.").format(limit=limit),
                code="rate_limit_exceeded",
                headers={"retry-after": "1"},
            )
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1


def _check_header_size(scope: Scope) -> None:
    """Refuse a request whose headers and path are larger than 16 KiB together."""
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    size += len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size > MAX_HEADER_BYTES:
        raise ApiError(431, _("The request's headers are larger than 16 KiB."))


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Give out the body once, then what else comes from the client."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
