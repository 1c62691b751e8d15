"""Work that a device is given once and that is started again as a whole, by one call of the host.

A step that only decodes is hundreds of small operations, which a card finishes sooner than its host
starts them. Recorded, they read the same memory every time: a step's numbers are put there first.
What a kernel takes from the host, the requests' lengths, is given anew at each start; others read
the lengths on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from danlu.ops.cache.key_value_store import CacheStep
from danlu.ops.cache.paged_store import CACHE, step_of, tables_of
from danlu.ops.choice import NotHere, Operation, example

# Starts the work again: takes how many tokens each request has in the cache now, returns the
# result, which the next start overwrites.
Replay = Callable[[Sequence[int]], Tensor]
# Records work on a device. It is done at once, too, and more than once. Recordings of one recorder
# may use the same memory: only one of them runs, and its result is read before another is started,
# if at all. A start may be queued behind another that still runs.
Recorder = Callable[[Callable[[], Tensor], torch.device], Replay]
# Makes the recorder of an engine.
RecorderMaker = Callable[[], Recorder]


def recorder_for(dtype: torch.dtype, device: torch.device) -> Recorder | None:
    """Make what records steps of a model of this dtype on its device; None: they are not."""
    maker = GRAPH.on(device)
    return maker() if maker and CACHE.on(device).replays(dtype) else None


def _trial(maker: RecorderMaker | None, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Two requests decode twice; the second time the same memory holds other numbers."""
    kind, (heads, kv_heads, head_dim) = CACHE.on(device), (4, 2, 128)
    if maker is not None and not kind.replays(torch.bfloat16):
        raise NotHere("its cache takes more from the host than lengths")
    tables = tables_of((150, 300), kind.block_tokens)
    q, k, v = (
        example(414, n, head_dim, device=device, dtype=dtype, seed=n)
        for n in (heads, kv_heads, kv_heads)
    )

    def step(starts: list[int], ends: list[int]) -> CacheStep:
        return step_of(tables, starts, ends, kind.block_tokens, device)

    with torch.no_grad():
        cache = kind(1, kv_heads, sum(map(len, tables)), head_dim, device=device, dtype=dtype)
        cache.append(0, step([0, 0], [140, 270]), k[:410], v[:410])
        numbers = [[part[place : place + 2] for part in (q, k, v)] for place in (410, 412)]
        steps = [step([140 + n, 270 + n], [141 + n, 271 + n]) for n in (0, 1)]

        def compute(step: CacheStep, now: list[Tensor]) -> Tensor:
            cache.append(0, step, now[1], now[2])
            return cache.attend(0, step, now[0])

        if maker is None or not kind.replays(dtype):
            return [compute(step, now) for step, now in zip(steps, numbers, strict=True)]
        there = [part.clone() for part in numbers[0]]
        replay = maker()(lambda: compute(steps[0], there), device)
        outputs = [replay(steps[0].ends).clone()]
        steps[0].slots.copy_(steps[1].slots)
        steps[0].lengths.copy_(steps[1].lengths)
        for part, now in zip(there, numbers[1], strict=True):
            part.copy_(now)
        return [*outputs, replay(steps[1].ends)]


GRAPH: Operation[RecorderMaker | None] = Operation("graph", {"reference": None}, _trial)
