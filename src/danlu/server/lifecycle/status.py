"""How the server is: /health, /ready, /version and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from danlu import __version__
from danlu.language import _
from danlu.server.edge.gate import serving_of
from danlu.server.edge.http_errors import ApiError
from danlu.server.prometheus import CONTENT_TYPE
from danlu.server.state import Serving, state_of

router = APIRouter(tags=["status"])


class Status(BaseModel):
    """One word: ok, loading or stopping."""

    status: str


class Version(BaseModel):
    """Which danlu this is."""

    version: str


@router.get("/health")
async def health(request: Request) -> Status:
    """Say whether the server lives: while it loads too, but not once its engine has failed."""
    state = state_of(request.app)
    if state.serving is None:
        return Status(status="loading")
    _check_alive(state.serving)
    return Status(status="stopping" if state.is_stopping else "ok")


@router.get("/ready")
async def ready(request: Request) -> Status:
    """Say whether requests are answered now."""
    _check_alive(serving_of(request.app))
    return Status(status="ok")


@router.get("/version")
async def version() -> Version:
    """Say which danlu this is."""
    return Version(version=__version__)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Give figures for Prometheus, under vLLM's names."""
    serving = serving_of(request.app)
    text = state_of(request.app).figures.text(serving.name, serving.service.figures())
    return PlainTextResponse(text, media_type=CONTENT_TYPE)


def _check_alive(serving: Serving) -> None:
    if not serving.service.is_alive:
        raise ApiError(
            503,
            _("The engine has failed; the log says why. Restart the server."),
            code="engine_failed",
        )
