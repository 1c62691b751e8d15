"""Numbers on their way from a device to its host, which does other work meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor


class Arriving:
    """A copy of a tensor, queued behind the work that makes it; what follows may overwrite it."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.Event | None = None
        if tensor.device.type == "cpu":
            self._copy = tensor.clone()
            return
        # Into pinned memory, which the device writes to by itself.
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype).pin_memory()
        self._copy.copy_(tensor, non_blocking=True)
        self._event = torch.get_device_module(tensor.device).Event()
        self._event.record()

    def wait(self) -> Tensor:
        """Wait for the numbers and return them; raises what the work has failed with."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
