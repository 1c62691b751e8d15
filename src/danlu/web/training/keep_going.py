"""Keeps the queue of trainings going while the server runs."""

from __future__ import annotations

import asyncio
import logging

from danlu.web.training.queue import TrainingQueue

# So soon after the end of a training the next one begins.
_EVERY_S = 1.0

_log = logging.getLogger(__name__)


async def keep_going(queue: TrainingQueue) -> None:
    """Look after the queue again and again; a failure is logged, and the next look tries anew."""
    while True:
        try:
            await asyncio.to_thread(queue.advance)
        except Exception:
            _log.exception("the queue of trainings could not be looked after")
        await asyncio.sleep(_EVERY_S)
