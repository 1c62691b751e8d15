"""Copies to pinned memory of the host, which nobody may read before an event behind them."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.sim.record import note_wait

# What stands where a copy has not arrived yet.
_GARBAGE = 0xA5

_pending: list[tuple[Tensor, Tensor]] = []
_queued = 0


def queue(target: Tensor, source: Tensor) -> None:
    """Copy what stands in `source` now, once the host waits for it."""
    global _queued
    _queued += 1
    _pending.append((target, source.to(target.dtype, copy=True)))
    target.view(torch.uint8).fill_(_GARBAGE)


def now() -> int:
    """Return how many copies have been queued."""
    return _queued


def wait_until(count: int) -> None:
    """Let the first `count` copies arrive."""
    late = _queued - count
    arrived, _pending[:] = _pending[: len(_pending) - late], _pending[len(_pending) - late :]
    with torch.inference_mode():  # some were made in it
        for target, numbers in arrived:
            target.copy_(numbers)
    if arrived:
        note_wait()
