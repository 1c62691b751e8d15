"""How the server is: /health, /ready, /version and /metrics."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from danlu import __version__
from danlu.language import _
from danlu.server.edge.errors import ApiError
from danlu.server.edge.problems import SERVER_ERROR
from danlu.server.life.prometheus import CONTENT_TYPE, Metrics
from danlu.server.state import Serving

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
    serving = cast("Serving | None", request.app.state.serving)
    if serving is None:
        return Status(status="loading")
    _check_alive(serving)
    return Status(status="stopping" if request.app.state.stopping else "ok")


@router.get("/ready")
async def ready(request: Request) -> Status:
    """Say whether requests are answered now."""
    serving = cast(Serving, request.app.state.serving)
    _check_alive(serving)
    return Status(status="ok")


@router.get("/version")
async def version() -> Version:
    """Say which danlu this is."""
    return Version(version=__version__)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Give figures for Prometheus, under vLLM's names."""
    serving = cast(Serving, request.app.state.serving)
    text = cast(Metrics, request.app.state.metrics).text(serving.name, serving.service.figures())
    return PlainTextResponse(text, media_type=CONTENT_TYPE)


def _check_alive(serving: Serving) -> None:
    if not serving.service.is_alive:
        raise ApiError(
            503,
            _("The engine has failed; the log says why. Restart the server."),
            kind=SERVER_ERROR,
            code="engine_failed",
        )
