"""Work that is asked for as one types: one piece at a time, and of those that wait the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Newest:
    """Does one piece of work at a time, on a thread; what a newer one has overtaken is left out."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._number = 0

    async def newest(self, work: Callable[[], T]) -> T | None:
        """Return what the work returns; None where a newer piece came while this one waited."""
        self._number += 1
        number = self._number
        async with self._lock:
            return await asyncio.to_thread(work) if number == self._number else None
