"""Answers with 503 while there is no model yet, and while the server is about to stop."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from danlu.language import _
from danlu.server.edge.errors import ApiError
from danlu.server.edge.problems import SERVER_ERROR
from danlu.server.edge.security import PUBLIC_PATHS


class Gate:
    """ASGI middleware. `app.state.serving` is None while loading, `stopping` a flag beside it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            state = scope["app"].state
            if state.stopping:
                raise ApiError(
                    503,
                    _("The server is stopping."),
                    kind=SERVER_ERROR,
                    code="stopping",
                    headers={"connection": "close", "retry-after": "30"},
                )
            if state.serving is None:
                raise ApiError(
                    503,
                    _("The model is still loading."),
                    kind=SERVER_ERROR,
                    code="loading",
                    headers={"retry-after": "5"},
                )
        await self._app(scope, receive, send)
