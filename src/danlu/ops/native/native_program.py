"""Recorded steps on the CPU: the calls of the library, made again by one call.

Kernels of ours read the same memory every time, so what they are given stays right. What torch
itself computes would be missing: a step with such an operation is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from danlu.ops.cache.graph import Replay
from danlu.ops.choice import NotHere
from danlu.ops.native.library import library

# What computes nothing: memory, and other views of it.
_VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        *("empty", "new_empty", "empty_like", "detach", "alias", "view", "_unsafe_view"),
        *("slice", "select", "split", "split_with_sizes", "unbind", "as_strided", "expand"),
        *("t", "transpose", "permute", "unsqueeze", "squeeze", "reshape", "chunk"),
    )
)


class _NothingElse(TorchDispatchMode):
    """Refuses what torch computes while a step is recorded."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func._schema.name not in _VIEWS:
            raise NotHere(f"{func._schema.name} has no kernel that can be recorded")
        return func(*args, **(kwargs or {}))


class ProgramRecorder:
    """Records the calls of a step."""

    def __call__(self, compute: Callable[[], Tensor], device: torch.device) -> Replay:
        """Record work of kernels of ours only. Raises NotHere for other work."""
        native = library()
        with native.recorded() as program, _NothingElse():  # type: ignore[no-untyped-call]
            result = compute()

        def replay(_ends: Sequence[int]) -> Tensor:
            program.run()
            return result

        return replay
