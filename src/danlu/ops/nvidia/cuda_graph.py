"""Recorded work on NVIDIA cards: CUDA graphs, which take nothing from the host.

In the order of torch's page on them (docs/source/notes/cuda.rst, 2.13): once on a side stream, so
that all kernels are compiled and loaded and all handles made, then captured. What a recording needs
while it runs is memory of its own pool; an engine's recordings share one. That is right because one
runs at a time, and its result is read, or nobody reads it, before the next one starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from weakref import WeakSet

import torch
from torch import Tensor

from danlu.ops.cache.graph import Replay


class CudaRecorder:
    """Records work, one engine's."""

    def __init__(self) -> None:
        # A pool is gone with its last recording.
        self._recorded: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
        # cuBLAS has a workspace for each stream, of 32 MiB on a Hopper: so recordings share two
        # streams. They are this engine's own: the workspace of the second lies in its pool, and a
        # newer torch lets go of it with any graph of the stream (pytorch/pytorch, issue 193402).
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None

    def __call__(self, compute: Callable[[], Tensor], device: torch.device) -> Replay:
        """Record work that reads what changes from the device only."""
        with torch.cuda.device(device):
            self._streams = self._streams or (torch.cuda.Stream(), torch.cuda.Stream())
            here, (side, capturing) = torch.cuda.current_stream(), self._streams
            side.wait_stream(here)
            with torch.cuda.stream(side):
                compute()
            here.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            pool = next((one.pool() for one in self._recorded), None)
            pool = pool or torch.cuda.graph_pool_handle()
            # Other threads may take memory meanwhile: a model that is loaded, for instance. Where a
            # capture fails torch leaves the thread on its own stream (cuda/graphs.py, 2.13), where
            # nothing waits for what others do: hence back to this one, whatever happens.
            with (
                _ended_for_the_allocator(pool),
                torch.cuda.stream(here),
                torch.cuda.graph(
                    graph, pool=pool, stream=capturing, capture_error_mode="thread_local"
                ),
            ):
                result = compute()
        self._recorded.add(graph)

        def replay(_ends: Sequence[int]) -> Tensor:
            graph.replay()
            return result

        return replay


@contextmanager
def _ended_for_the_allocator(pool: tuple[int, int]) -> Iterator[None]:
    """Let torch's allocator know when a capture into a pool has failed.

    torch itself forgets that in 2.10 and 2.11 (pytorch/pytorch, pull request 180395): then nothing
    could give memory back any more in this process, as `torch.cuda.empty_cache` does.
    """
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # it knows
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        raise
