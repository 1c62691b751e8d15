"""The outermost layer: every request gets an id, a line in the log, and an answer.

Every exception becomes an error of OpenAI's shape. The line names the route, never the query or the
body; the text of an unexpected exception is in the log only, with the request's id.
"""

from __future__ import annotations

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.server.edge.http_errors import api_error_of, as_response
from danlu.server.edge.logs import escaped
from danlu.server.state import RequestRecord, open_record

_log = logging.getLogger(__name__)

# Pages may load only what comes from here, and may not be framed by other pages.
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


class Access:
    """ASGI middleware around everything else."""

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
        record = open_record(scope)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = record.id
                for name, value in {**_HEADERS, **record.headers}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception as problem:
            error = api_error_of(problem, record.id)
            if not record.status:
                await as_response(error)(scope, receive, send_named)
            # Else the answer has begun: the server sees that it was not completed and hangs up.
        finally:
            _log.info("%s", _line(record, scope))


def _line(record: RequestRecord, scope: Scope) -> str:
    """Write a request's line: method, route, status, milliseconds, tokens, id."""
    route = scope.get("route")
    # Without a route (refused before, or none found) the path is text of the client's.
    path = getattr(route, "path", None) or escaped(scope["path"][:200])[:200]
    milliseconds = 1000 * (time.monotonic() - record.started)
    tokens = f"{record.prompt_tokens}+{record.completion_tokens}"
    return (
        f"{escaped(scope['method'][:20])[:20]} {path} {record.status or 'no answer'} "
        f"{milliseconds:.0f}ms tokens {tokens} {record.id}"
    )
