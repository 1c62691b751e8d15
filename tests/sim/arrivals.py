"""The device's queue as far as the host may be ahead of it: copies to pinned memory, graphs.

What is copied so stands there only once an event behind it has been waited for, or all work; a
graph runs until then, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.sim.record import note_wait

# What stands where a copy has not arrived yet.
GARBAGE = 0xA5

_pending: list[tuple[int, Tensor, Tensor]] = []
_queued = _ended = 0


def queue_copy(target: Tensor, source: Tensor) -> None:
    """Copy what stands in `source` now, once the host waits for it."""
    _pending.append((start(), target, source.to(target.dtype, copy=True)))
    target.view(torch.uint8).fill_(GARBAGE)


def start() -> int:
    """Queue work; return its number."""
    global _queued
    _queued += 1
    return _queued


def now() -> int:
    """Return the number of what was queued last."""
    return _queued


def has_ended(number: int) -> bool:
    """Whether the host has waited for work."""
    return number <= _ended


def wait_until(number: int) -> None:
    """Let the host wait for work and all before it; if it gets results then, that is counted."""
    if finish(number):
        note_wait()


def finish(number: int) -> bool:
    """End work and all before it; return whether copies have arrived."""
    global _ended
    _ended = max(_ended, number)
    arrived = [one for one in _pending if one[0] <= _ended]
    _pending[:] = _pending[len(arrived) :]
    with torch.inference_mode():  # some were made in it
        for _number, target, numbers in arrived:
            target.copy_(numbers)
    return bool(arrived)
