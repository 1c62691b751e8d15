"""Memory of host and device: moving tensors, counting bytes, recognising that it is full."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.container import free_memory_bytes

# How a RuntimeError says that memory is full where torch has no exception of its own for it: its
# allocator on the CPU (c10/core/impl/alloc_cpu.cpp), C++'s new below it, drivers ("CUDA error: out
# of memory", when host memory is pinned) and older torch_npu ("NPU out of memory"), cuBLAS.
_FULL = (
    "DefaultCPUAllocator: can't allocate memory",
    "std::bad_alloc",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
# oneDNN, which multiplies bf16 on the CPU, says no more than this (provoked by a limit). With more
# words behind it means something else: "could not create a primitive descriptor for ...".
_FULL_ONEDNN = ("could not create a primitive", "could not create a memory object")


def is_out_of_memory(fault: BaseException) -> bool:
    """Tell whether an operation failed because the device or the host had no memory left."""
    if isinstance(fault, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(fault, RuntimeError):
        return False
    text = str(fault)
    return text in _FULL_ONEDNN or any(words in text for words in _FULL)


def free_cache(device: torch.device) -> None:
    """Return unreferenced memory to the system, cycles of references included."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
    else:
        trim_heap()


def trim_heap() -> None:
    """Return to the system what the host's heap holds unused.

    glibc keeps what was freed between blocks in use (measured: 35 to 50 MB of 365), and with every
    step of other sizes there is more of it (319 MB of 849 after 16 steps of the starter).
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def is_readable_in_place(tensor: Tensor) -> bool:
    """Tell whether a file can be read straight into the tensor: on the host, in one piece."""
    return tensor.device.type == "cpu" and tensor.is_contiguous()


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to the host's memory, queued on the device; the host does not wait.

    A tensor on the host is returned as it is. Only `back_on_device` may read the copy.
    """
    # Into pinned memory: torch takes it for a copy that the host does not wait for.
    return tensor if tensor.device.type == "cpu" else tensor.to("cpu", non_blocking=True)


def back_on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy back what `to_host` copied, queued on the device."""
    return tensor.to(device, non_blocking=True)


def reachable(array: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return a host tensor that the device can copy without the host waiting.

    An accelerator needs the memory pinned for that; else the host would wait for all queued work.
    """
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Queue a copy of a host tensor to the device; the host does not wait for it."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def free_bytes(device: torch.device) -> int:
    """Count the bytes that new tensors may take; on the CPU the container's limit counts, too.

    What an accelerator's allocator keeps though no tensor uses it is free.
    """
    if device.type == "cpu":
        free = free_memory_bytes()
        return sys.maxsize if free is None else free
    module = torch.get_device_module(device)
    free_of_all, _total = module.mem_get_info()
    return int(free_of_all) + int(module.memory_reserved()) - int(module.memory_allocated())


def used_bytes(device: torch.device) -> int:
    """Count the bytes in use: the process's resident memory on the CPU, else the allocator's."""
    if device.type != "cpu":
        return int(torch.get_device_module(device).memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def device_gauge(device: torch.device) -> dict[str, int] | None:
    """Return an accelerator's bytes: `total`, `used` by all programs, `own` of this process.

    None for the CPU, whose memory is the host's.
    """
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    free, total = module.mem_get_info()
    return {"total": int(total), "used": int(total - free), "own": int(module.memory_reserved())}


def peak_bytes(device: torch.device) -> int:
    """Count the most bytes that were ever in use; see `used_bytes`."""
    if device.type != "cpu":
        return int(torch.get_device_module(device).max_memory_allocated())
    try:
        # Not getrusage: that also counts the program which started this one, before it did.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:")) * 1024
    except (OSError, ValueError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
