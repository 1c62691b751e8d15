"""Where a tensor's memory lies, and how much of it this process uses."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def is_readable_in_place(tensor: Tensor) -> bool:
    """Tell whether a file can be read straight into the tensor: on the host, in one piece."""
    return tensor.device.type == "cpu" and tensor.is_contiguous()


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to the host's memory, behind what the device has queued; the host goes on.

    What is on the host already stays where it is. Only `back_on_device` may read the copy.
    """
    # Into pinned memory: torch takes it for a copy that the host does not wait for.
    return tensor if tensor.device.type == "cpu" else tensor.to("cpu", non_blocking=True)


def back_on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Bring back what `to_host` copied, behind what the device has queued."""
    return tensor.to(device, non_blocking=True)


def reachable(array: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return a host tensor that the device copies by itself while the host goes on.

    An accelerator needs the memory pinned for that; else the host would wait for all queued work.
    """
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory()


def free_bytes(device: torch.device) -> int:
    """Count the bytes that this process may still take, with those that it has already."""
    if device.type != "cpu":
        free, _total = _module(device).mem_get_info()
        return int(free) + int(_module(device).memory_reserved())
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return sys.maxsize
    return available * 1024 + used_bytes(device)


def used_bytes(device: torch.device) -> int:
    """Count the bytes in use: the process's resident memory on the CPU, else the allocator's."""
    if device.type != "cpu":
        return int(_module(device).memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device) -> int:
    """Count the most bytes that were ever in use; see `used_bytes`."""
    if device.type != "cpu":
        return int(_module(device).max_memory_allocated())
    try:
        # Not getrusage: that also counts the program which started this one, before it did.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:")) * 1024
    except (OSError, ValueError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _module(device: torch.device) -> Any:
    """Return torch.cuda or torch.npu."""
    return getattr(torch, device.type)
