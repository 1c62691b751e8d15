"""What a card would be given to do: torch's operations, and kernels of Triton, in their order.

A stand-in for CUDA graphs rests on it: what was noted is run again into the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import InterpretedFunction

# What takes memory and leaves it as it is.
_TAKE = {"empty", "empty_like", "empty_strided", "new_empty"}


class Starting(TorchDispatchMode):
    """Notes what is started while it is entered: names, and how to run each of them again."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._again: list[Callable[[], None]] = []
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Starting:
        launch = InterpretedFunction.run

        def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
            with _disable_current_modes():  # what the interpreter does by itself
                launch(kernel, *args, **kwargs)
            self._note(kernel.fn.__name__, lambda: launch(kernel, *args, **kwargs))

        self._patch.setattr(InterpretedFunction, "run", run)
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, problem, trace)
        self._patch.undo()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name not in _TAKE and (func._schema.is_mutable or not _is_view(out, (args, kwargs))):

            def again() -> None:
                found = func(*args, **(kwargs or {}))
                if not func._schema.is_mutable:
                    for there, now in zip(tree_leaves(out), tree_leaves(found), strict=True):
                        there.copy_(now)

            self._note(name, again)
        return out

    def run_again(self) -> None:
        for one in self._again:
            one()

    def _note(self, name: str, again: Callable[[], None]) -> None:
        self.names.append(name)
        self._again.append(again)


def _is_view(out: Any, given: Any) -> bool:
    """Whether what was given is only seen otherwise: composite operations often compute nothing."""
    there, before = (
        {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(part) if torch.is_tensor(leaf)}
        for part in (out, given)
    )
    return there <= before


class CudaGraphs:
    """Stands in for torch.cuda's streams and graphs on the CPU, and notes what is asked of them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pools: list[object] = []
        self.captures: list[object] = []
        self.made_streams: list[_Stream] = []
        self.captured_on: list[_Stream] = []
        self.streams = ["default"]

    def put_in(self, patch: pytest.MonkeyPatch) -> None:
        for name, stand_in in {
            "device": self._device,
            "current_stream": lambda: _Stream(self, self.streams[-1]),
            "Stream": self._new_stream,
            "stream": self._stream,
            "CUDAGraph": lambda: _Graph(self),
            "graph": self._graph,
            "graph_pool_handle": object,
            "current_device": lambda: 0,
        }.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", self._end_allocating, raising=False)

    def note(self, what: str) -> None:
        self.asked.append(f"{self.streams[-1]}: {what}")

    @contextmanager
    def _device(self, device: torch.device) -> Iterator[None]:
        yield

    @contextmanager
    def _stream(self, stream: _Stream) -> Iterator[None]:
        before = [*self.streams]
        self.streams.append(stream.name)
        try:
            yield
        finally:
            self.streams[:] = before

    def _new_stream(self) -> _Stream:
        self.made_streams.append(_Stream(self, "side"))
        return self.made_streams[-1]

    @contextmanager
    def _graph(
        self, graph: _Graph, *, pool: object, stream: _Stream, capture_error_mode: str
    ) -> Iterator[None]:
        """Where the work fails the stream stays, and the capture for the allocator, as in 2.11."""
        self.streams.append("capture")
        self.captured_on.append(stream)
        self.pools.append(pool)
        self.captures.append(pool)
        graph.own_pool = pool
        self.note(f"begin {capture_error_mode}")
        with graph.started:
            yield
        self.note("end")
        self.captures.remove(pool)
        self.streams.pop()

    def _end_allocating(self, _device: int, pool: object) -> None:
        if pool not in self.captures:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.captures.remove(pool)


class _Stream:
    def __init__(self, cuda: CudaGraphs, name: str) -> None:
        self._cuda, self.name = cuda, name

    def wait_stream(self, other: _Stream) -> None:
        self._cuda.note(f"{self.name} waits for {other.name}")


class _Graph:
    def __init__(self, cuda: CudaGraphs) -> None:
        self._cuda, self.started = cuda, Starting()
        self.own_pool: object = None

    def pool(self) -> object:
        return self.own_pool

    def replay(self) -> None:
        self._cuda.note("replay")
        with torch.inference_mode():
            self.started.run_again()
