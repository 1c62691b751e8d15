"""The kernels of a call on a card: how long each took, and where the card waited between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_MOST = 40
# Kernels that follow each other wait about a microsecond; what is longer waits for the host.
_LONG_US = 5.0


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """names: those that took most, with milliseconds and how often. span_ms: from the first kernel
    to the end of the last; busy_ms: of it, when one ran. long_waits_ms: of more than `_LONG_US`.
    waits: the longest, in microseconds, with the kernels before and behind.
    """

    names: Sequence[tuple[str, float, int]]
    count: int
    span_ms: float
    busy_ms: float
    long_waits_ms: float
    waits: Sequence[tuple[float, str, str]]

    @property
    def words(self) -> str:
        """For the table."""
        return (
            f"{self.busy_ms:.1f} of {self.span_ms:.1f} ms busy, {self.count:,} kernels; "
            f"waits {self.long_waits_ms:.1f} ms"
        )


def profiled(work: Callable[[], Any], device: torch.device) -> Kernels:
    """Return the kernels of a call; on the CPU its operations."""
    from torch.profiler import ProfilerActivity, profile

    on_card = device.type == "cuda"
    kinds = [ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU]
    with profile(activities=kinds) as recorded:
        work()
        if on_card:
            torch.cuda.synchronize()
    wanted = torch.autograd.DeviceType.CUDA if on_card else torch.autograd.DeviceType.CPU
    runs = sorted(
        (event.time_range.start, event.time_range.end, event.name[:100])
        for event in recorded.events()
        if event.device_type == wanted
    )
    return _summed(runs)


def _summed(runs: Sequence[tuple[float, float, str]]) -> Kernels:
    by_name: dict[str, tuple[float, int]] = {}
    waits: list[tuple[float, str, str]] = []
    busy, reached, before = 0.0, runs[0][0], ""
    for start, end, name in runs:
        took, count = by_name.get(name, (0.0, 0))
        by_name[name] = took + (end - start) / 1e3, count + 1
        if start > reached:
            waits.append((start - reached, before, name))
        busy += max(0.0, end - max(start, reached))
        reached, before = max(reached, end), name
    names = sorted(((n, ms, c) for n, (ms, c) in by_name.items()), key=lambda each: -each[1])
    return Kernels(
        names=names[:_MOST],
        count=len(runs),
        span_ms=(reached - runs[0][0]) / 1e3,
        busy_ms=busy / 1e3,
        long_waits_ms=sum(us for us, _before, _behind in waits if us > _LONG_US) / 1e3,
        waits=sorted(waits, reverse=True)[:_MOST],
    )
