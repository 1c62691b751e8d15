"""Answers with 503 while there is no model yet, and while the server is about to stop."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.security import PUBLIC_PATHS
from danlu.server.front import Front
from danlu.server.state import Serving, state_of


class Gate:
    """ASGI middleware that lets requests through only while they can be answered."""

    def __init__(self, app: ASGIApp, *, front: Front) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            if state_of(scope["app"]).is_stopping:
                raise ApiError(
                    503,
                    _("The server is stopping."),
                    code="stopping",
                    headers={"connection": "close", "retry-after": "30"},
                )
            if self._front.needs_model(scope["path"]):
                serving_of(scope["app"])
        await self._app(scope, receive, send)


def serving_of(app: Starlette) -> Serving:
    """Return the model that an application serves. Raises ApiError while it loads."""
    serving = state_of(app).serving
    if serving is None:
        headers = {"retry-after": "5"}
        raise ApiError(503, _("The model is still loading."), code="loading", headers=headers)
    return serving
