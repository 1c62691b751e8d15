"""Routes of the session: what a page has to know first, opening a session, ending it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from danlu import __version__
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.keys import Keys
from danlu.web.studio import Studio, studio_of

SESSION = "/studio/session"


class Opening(BaseModel):
    """What opens a session: the word of a one-time link, or a key."""

    model_config = ConfigDict(extra="forbid")

    link: str = ""
    key: str = ""


def session_router(keys: Keys) -> APIRouter:
    """Make the routes; they compare keys with those of the server."""
    router = APIRouter()

    @router.get(SESSION)
    async def show(request: Request) -> dict[str, Any]:
        """Say which danlu this is, and whether this browser has to show a key."""
        sessions = studio_of(request).sessions
        is_open = not keys or sessions.holder(request.headers) is not None
        return {"version": __version__, "open": is_open}

    @router.post(SESSION)
    async def open_session(body: Opening, request: Request) -> Response:
        """Open a session for a link or a key."""
        studio: Studio = studio_of(request)
        if keys and not (
            (body.link.isascii() and body.link and studio.sessions.use_link(body.link))
            or (body.key.isascii() and body.key and keys.recognise(f"Bearer {body.key}"))
        ):
            raise ApiError(
                401,
                _("That link was used already, or that is not the key of this server."),
                code="invalid_api_key",
            )
        response = JSONResponse({"open": True})
        if keys:
            studio.sessions.give(response)
        return response

    @router.post(f"{SESSION}/end")
    async def end_session(request: Request) -> Response:
        """End this browser's session."""
        response = JSONResponse({"open": False})
        studio_of(request).sessions.end(request.headers, response)
        return response

    return router
