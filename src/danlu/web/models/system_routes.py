"""Routes of the machine: gauges that are polled, and the table of facts."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from danlu.device.detect import select
from danlu.web.models.gauges import doctor, gauges
from danlu.web.studio import studio_of

router = APIRouter(prefix="/studio/system")


@router.get("")
async def show_gauges(request: Request) -> dict[str, Any]:
    """Say what the machine has and uses."""
    device = studio_of(request).server.settings.device
    return await asyncio.to_thread(lambda: gauges(select(device)))


@router.get("/doctor")
async def show_doctor(request: Request) -> list[dict[str, Any]]:
    """List facts of the machine, and what to do where one is bad."""
    return await asyncio.to_thread(doctor)
