"""Routes of models: the loaded one, loading and ejecting; who can answer."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from danlu.web.studio import studio_of

router = APIRouter(prefix="/studio")


@router.get("/models/loaded")
async def show_loaded(request: Request) -> dict[str, Any]:
    """Say which model is loaded, or how far its loading is."""
    return studio_of(request).loading.state.fields()


@router.get("/voices")
async def list_voices(request: Request) -> list[dict[str, Any]]:
    """List who can answer."""
    voices = studio_of(request).voices
    return [voice.fields() for voice in await asyncio.to_thread(lambda: list(voices.all()))]
