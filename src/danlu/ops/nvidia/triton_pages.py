"""The paged cache with kernels in Triton: one writes a step's tokens, one attends to all.

They read slots, block tables and lengths on the device only, so a step that decodes can be
recorded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.cache.key_value_store import CacheStep
from danlu.ops.cache.paged_store import Paged
from danlu.ops.nvidia.late_import import late

_append, _attend = late("paged", "append"), late("paged", "attend")


class TritonPages(Paged):
    """Laid out as `Paged`. Keys and values are attended to where they lie."""

    gathered_tokens = 0

    @classmethod
    def replays(cls, dtype: torch.dtype) -> bool:
        return True

    def append(self, layer: int, step: CacheStep, k: Tensor, v: Tensor) -> None:
        """Write into the slots."""
        _append(self._store[layer], step.slots, k, v)

    def attend(self, layer: int, step: CacheStep, q: Tensor) -> Tensor:
        """Attend with all requests at once, those that read their prompts among them."""
        out: Tensor = _attend(self._store[layer], step, q)
        return out
