"""Forms of a request's first line that HTTP allows and routes do not know.

HEAD is answered where GET is, without the body. A target may be a whole address, as proxies send
it. Must not know routes. Source: RFC 9112, section 3.2.2; RFC 9110, section 9.3.2.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.language import _
from danlu.server.edge.http_errors import ApiError


class RequestLine:
    """ASGI middleware that shows inner layers a path, and GET for HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _take_path(scope)
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            is_body = message["type"] == "http.response.body"
            await send({**message, "body": b""} if is_body else message)

        # The server itself must still see HEAD: it counts the bytes of the answer.
        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive, send_without_body)
        finally:
            scope["route"] = inner.get("route")  # for the log


def _take_path(scope: Scope) -> None:
    """Replace a target that is a whole address by its path. Raises ApiError for another Host."""
    if not scope["path"].lower().startswith(("http://", "https://")):
        return
    try:
        target = urlsplit(scope["path"])
    except ValueError:  # brackets that are no IPv6 address
        return
    if [target.netloc.lower()] != [h.lower() for h in Headers(scope=scope).getlist("host")]:
        raise ApiError(400, _("A request names exactly one Host."), code="invalid_host")
    scope["path"] = target.path or "/"
    scope["raw_path"] = b"/" + b"/".join(scope["raw_path"].split(b"/")[3:])
