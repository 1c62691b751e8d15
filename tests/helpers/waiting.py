"""Waiting for what happens elsewhere: for a condition, however busy the machine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# Nothing takes that long but what never comes.
PATIENCE_S = 120.0


def wait_until(is_so: Callable[[], object]) -> float:
    """Wait for what other threads or programs do; return the seconds that it took."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() < begun + PATIENCE_S, "it has not come to that"
        time.sleep(0.002)
    return time.monotonic() - begun


async def until(is_so: Callable[[], object]) -> None:
    """Wait for what other tasks of the event loop do, or other threads."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() < begun + PATIENCE_S, "it has not come to that"
        await asyncio.sleep(0.002)
