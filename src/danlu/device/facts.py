"""The device that is here, as planning sees it: speed by its data sheet, memory as found."""

from __future__ import annotations

from dataclasses import replace

from danlu.device.datasheets import DeviceFacts, cpu_facts, nearest
from danlu.device.detect import Device
from danlu.device.memory import free_bytes, used_bytes

# What training takes on the CPU besides its tensors: the program with its libraries, and the
# kernels that they make in any case; each microstep adds to these (`DeviceFacts.kernel_bytes`).
_PROGRAM_BYTES = 365 * 10**6
_KERNELS_BYTES = 60 * 10**6


def device_facts(device: Device, *, without_loaded: bool = False) -> DeviceFacts:
    """Describe the device for a plan.

    without_loaded: on the CPU, what this process has in memory now will be gone by then.
    """
    if device.kind == "cpu":
        facts = cpu_facts(
            description=device.description,
            memory_bytes=device.memory_bytes,
            threads=device.threads,
            has_fast_bf16=device.has_fast_bf16,
        )
        now = 0 if without_loaded else used_bytes(device.torch_device)
        taken = max(now, _PROGRAM_BYTES) + _KERNELS_BYTES
        return replace(facts, context_bytes=taken)
    facts = nearest(device.kind, device.description, device.memory_bytes)
    return replace(facts, description=device.description, memory_bytes=device.memory_bytes)


def budget_bytes(device: Device) -> int:
    """Return what this process may use, with what it uses already, of its container or card."""
    taken = used_bytes(device.torch_device)
    return min(device.memory_bytes, free_bytes(device.torch_device) + taken)
