"""The device that is here, as planning sees it: speed by its data sheet, memory as found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from danlu.device.datasheets import DeviceFacts, attention_flops, cpu_facts, facts_of
from danlu.device.detect import Device
from danlu.device.memory import free_bytes, used_bytes
from danlu.device.variants import REFERENCE, attention_facts, fused_by

# What training takes on the CPU besides its tensors: the program with its libraries, and the
# kernels that they make in any case; each microstep adds to these (`DeviceFacts.kernel_bytes`).
_PROGRAM_BYTES = 365 * 10**6
_KERNELS_BYTES = 60 * 10**6


def device_facts(
    device: Device, variants: Mapping[str, str], *, own_process: bool = True
) -> DeviceFacts:
    """Describe the device for a plan.

    variants: of the operations, as chosen on it. own_process: it is this process that will compute.
    """
    attention = attention_facts(device.kind, variants["attention"])
    fused = fused_by(device.kind, variants)
    if device.kind == "cpu":
        facts = cpu_facts(
            description=device.description,
            memory_bytes=device.memory_bytes,
            threads=device.threads,
            has_fast_bf16=device.has_fast_bf16,
            has_two_units=device.has_two_units,
        )
        taken = max(used_bytes(device.torch_device) if own_process else 0, _PROGRAM_BYTES)
        context = taken + _KERNELS_BYTES
        return replace(
            facts,
            context_bytes=context,
            attention=attention,
            fused=fused,
            packs=variants["packed_base"] != REFERENCE,
        )
    facts = facts_of(device.kind, device.description, device.memory_bytes, device.card)
    return replace(
        facts,
        description=device.description,
        memory_bytes=device.memory_bytes,
        has_bf16=device.has_fast_bf16,
        attention=attention,
        attention_flops=attention_flops(facts, variants["attention"]),
        fused=fused,
    )


def budget_bytes(device: Device, *, own_process: bool = True, processes: int = 1) -> int:
    """Return what this process may use, with what it uses already, of its container or card.

    own_process: False for another process, which has only what is free beside this one. processes:
    how many of this machine compute alike; a CPU's memory is that of all of them.
    """
    taken = used_bytes(device.torch_device) if own_process else 0
    free = free_bytes(device.torch_device) // (processes if device.kind == "cpu" else 1)
    return min(device.memory_bytes, free + taken)


def kept_bytes(device: Device) -> int:
    """Return what this process keeps on the device beyond the program itself: a loaded model."""
    taken = used_bytes(device.torch_device)
    return max(0, taken - _PROGRAM_BYTES) if device.kind == "cpu" else taken
