"""Notices that a client has gone while something is computed for it, streaming or not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody is waiting for the answer any more."""


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Await some work; cancel it and raise ClientGone as soon as the client disconnects.

    The request's body must have been read: `receive` then waits for the disconnection.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
