"""What one process of a group says to the others, and what it makes of a fault of theirs."""

from __future__ import annotations

import pytest
import torch

from danlu.device import group as device_group
from danlu.device.group import Group, GroupBroken


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_memory_that_runs_out_here_is_not_taken_for_another_process_that_ended(
    fault: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError) as raised:
        _sum(fault, monkeypatch)
    assert raised.value is fault


def test_another_fault_says_that_another_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GroupBroken):
        _sum(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed"), monkeypatch)


def _sum(fault: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise fault

    monkeypatch.setattr(device_group, "_GIVE_WAY_S", 0.0)
    monkeypatch.setattr(device_group.dist, "all_reduce", fail)
    Group(0, 2).sum(torch.zeros(1))
