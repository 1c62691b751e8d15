"""A buffer of whole numbers that the host fills again and again, and a device reads."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


class UploadBuffer:
    """int32 numbers in one piece: `host` to write to, `there` to read on the device.

    Both are made once, `host` pinned where a device copies by itself: so `upload` is one queued
    copy, to the same place every time. On the CPU both are the same memory. kept: how many more
    numbers stand behind these, which no upload touches.
    """

    def __init__(self, size: int, device: torch.device, *, kept: int = 0) -> None:
        self._size = size
        memory = torch.zeros(size + kept, dtype=torch.int32)
        self._is_copied = device.type != "cpu"
        self._memory = memory.pin_memory() if self._is_copied else memory
        self.there = torch.zeros_like(memory, device=device) if self._is_copied else memory
        self.host: NDArray[np.int32] = self._memory.numpy()
        self._event = torch.get_device_module(device).Event() if self._is_copied else None

    def begin(self) -> None:
        """Wait until what was uploaded last has left the host: then `host` may be written to."""
        if self._event is not None:
            self._event.synchronize()

    def upload(self) -> None:
        """Queue the copy."""
        if self._event is not None:
            self.there[: self._size].copy_(self._memory[: self._size], non_blocking=True)
            self._event.record()
