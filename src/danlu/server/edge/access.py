"""The outermost layer: every request gets an id, a line in the log, and an answer.

Knows when a request begins and ends, and turns whatever was raised inside into an error of OpenAI's
shape. The line names the route, never the query or the body; what went wrong inside stands in the
log, with the request's id, and nowhere else.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.server.edge.errors import ApiError
from danlu.server.edge.logs import escaped
from danlu.server.edge.problems import internal_error, respond

_log = logging.getLogger(__name__)

# Pages may load only what comes from here, and nobody may show them inside another page.
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; object-src 'none'; "
        "frame-ancestors 'none'"
    ),
}


@dataclass(kw_only=True)
class RequestRecord:
    """What is known about one HTTP request; `metrics` adds its tokens."""

    id: str = field(default_factory=lambda: f"req-{secrets.token_hex(12)}")
    started: float = field(default_factory=time.monotonic)
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


current_request: ContextVar[RequestRecord | None] = ContextVar("current_request", default=None)


class Access:
    """ASGI middleware around everything else.

    In `scope["state"]`, "request_id" is the id, and "answer_headers" are headers that inner layers
    want on the answer, whichever it will be.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord()
        state = scope.setdefault("state", {})
        state["request_id"] = record.id
        extra: dict[str, str] = state.setdefault("answer_headers", {})
        token = current_request.set(record)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = record.id
                for name, value in {**_HEADERS, **extra}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._answer(record, scope, receive, send_named)
        finally:
            current_request.reset(token)
            _log.info("%s", access_line(record, scope))

    async def _answer(
        self, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            await self._app(scope, receive, send)
        except ApiError as problem:
            await respond(problem, scope, receive, send)
        except Exception:
            _log.exception("request %s failed", record.id)
            if not record.status:
                await respond(internal_error(record.id), scope, receive, send)
            # Else the answer has begun: the server sees that it was not completed and hangs up.


def access_line(record: RequestRecord, scope: Scope) -> str:
    """Write a request's line: method, route, status, milliseconds, tokens, id."""
    route = scope.get("route")
    # Without a route (refused before, or none found) the path is anybody's text.
    path = getattr(route, "path", None) or escaped(scope["path"])[:200]
    milliseconds = 1000 * (time.monotonic() - record.started)
    tokens = f"{record.prompt_tokens}+{record.completion_tokens}"
    return (
        f"{escaped(scope['method'])[:20]} {path} {record.status or 'no answer'} "
        f"{milliseconds:.0f}ms tokens {tokens} {record.id}"
    )
