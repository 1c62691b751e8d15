"""The simulated NPU's memory: bytes of living storages, their peak, and a budget.

Counts storages, as torch.npu does, without its caching. A kernel's own scratch space is not seen:
the CPU's kernels allocate theirs elsewhere.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

CAPACITY_BYTES = 64 * 2**30


@dataclass
class Memory:
    """Counters in bytes; `budget` is what the device has."""

    allocated: int = 0
    peak: int = 0
    budget: int = CAPACITY_BYTES

    def take(self, owner: object, num_bytes: int) -> None:
        """Count bytes until `owner` dies. Raises torch.OutOfMemoryError above the budget."""
        if self.allocated + num_bytes > self.budget:
            raise torch.OutOfMemoryError(
                f"NPU out of memory. Tried to allocate {num_bytes} bytes "
                f"({self.budget} total; {self.allocated} already allocated)"
            )
        self.allocated += num_bytes
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(owner, self._release, num_bytes)

    def _release(self, num_bytes: int) -> None:
        self.allocated -= num_bytes

    @contextmanager
    def limited_to(self, num_bytes: int) -> Iterator[None]:
        """Give the device less memory for a while."""
        before, self.budget = self.budget, num_bytes
        try:
            yield
        finally:
            self.budget = before


MEMORY = Memory()
