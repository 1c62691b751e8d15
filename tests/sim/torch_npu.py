"""The modules that torch_npu brings: `torch.npu`, and `torch_npu` itself to be imported."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import torch

from tests.sim import arrivals
from tests.sim.graphs import NPUGraph, graph
from tests.sim.memory import MEMORY

DESCRIPTION = "Simulated NPU"


def install_modules() -> ModuleType:
    """Make `torch_npu` importable and return the module that torch shall know as `torch.npu`."""
    npu = ModuleType("torch.npu")
    npu.Event, npu.Stream = Event, Stream  # type: ignore[attr-defined]
    npu.NPUGraph, npu.graph = NPUGraph, graph  # type: ignore[attr-defined]
    for function in _FUNCTIONS:
        setattr(npu, function.__name__, function)
    package = ModuleType("torch_npu")
    package.__spec__ = ModuleSpec("torch_npu", None)
    package.npu = npu  # type: ignore[attr-defined]
    sys.modules["torch_npu"] = package
    return npu


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return False


def device_count() -> int:
    return 1


def current_device() -> int:
    return 0


def set_device(device: object) -> None:
    pass


def get_device_properties(device: object = None) -> SimpleNamespace:
    return SimpleNamespace(name=DESCRIPTION, total_memory=MEMORY.budget)


def is_bf16_supported() -> bool:
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16, torch.float32]


def synchronize(device: object = None) -> None:
    arrivals.wait_until(arrivals.now())  # the CPU has always finished


def manual_seed_all(seed: int) -> None:
    pass  # numbers without a generator come from the CPU's, which torch seeds as well


def memory_allocated(device: object = None) -> int:
    return MEMORY.allocated


def memory_reserved(device: object = None) -> int:
    return MEMORY.allocated  # nothing is kept that is not in use


def max_memory_allocated(device: object = None) -> int:
    return MEMORY.peak


def reset_peak_memory_stats(device: object = None) -> None:
    MEMORY.peak = MEMORY.allocated


def mem_get_info(device: object = None) -> tuple[int, int]:
    return MEMORY.budget - MEMORY.allocated, MEMORY.budget


class Event:
    """A place in the queue; what `arrivals` knows of ends when it is waited for."""

    def __init__(self) -> None:
        self._number = 0

    def record(self, stream: Stream | None = None) -> None:
        self._number = arrivals.now()

    def synchronize(self) -> None:
        arrivals.wait_until(self._number)


class Stream:
    """A queue beside others; here all are one, in order, so nobody has to wait for another."""

    def __init__(self, device: object = None, priority: int = 0) -> None:
        pass

    def wait_stream(self, stream: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event


def current_stream(device: object = None) -> Stream:
    return Stream()


def stream(stream: Stream) -> nullcontext[None]:
    return nullcontext()


def empty_cache() -> None:
    pass  # nothing is cached


_FUNCTIONS = (
    *(is_available, is_initialized, _is_in_bad_fork, device_count, current_device, set_device),
    *(get_device_properties, is_bf16_supported, get_amp_supported_dtype, synchronize),
    *(manual_seed_all, memory_allocated, max_memory_allocated, reset_peak_memory_stats),
    *(memory_reserved, mem_get_info, empty_cache, current_stream, stream),
)
