"""Running out of memory is told from every other trouble, by errors that really happened."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from danlu.device.memory import is_out_of_memory

TOO_MUCH = 2**60


def raised(provoke: Callable[[], object]) -> Exception:
    try:
        provoke()
    except Exception as fault:
        return fault
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "provoke",
    [
        lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
        lambda: torch.ones(1).expand(TOO_MUCH).clone(),
        lambda: np.zeros(TOO_MUCH, dtype=np.uint8),
        lambda: bytearray(TOO_MUCH),
    ],
    ids=["empty", "clone", "numpy", "python"],
)
def test_full_memory_is_recognised(provoke: Callable[[], object]) -> None:
    assert is_out_of_memory(raised(provoke))


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("NPU out of memory. Tried to allocate 20.00 MiB."),  # older torch_npu
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),  # oneDNN, in bf16
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_only_other_machines_raise_is_recognised(fault: Exception) -> None:
    assert is_out_of_memory(fault)


def test_what_only_begins_alike_is_not_mistaken_for_it() -> None:
    text = "could not create a primitive descriptor for a matmul primitive"
    assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "provoke",
    [
        lambda: torch.ones(2, 3) @ torch.ones(2, 3),
        lambda: torch.ones(2)[5],
        lambda: open("/no/such/file", encoding="utf-8"),  # noqa: SIM115
    ],
    ids=["shapes", "index", "file"],
)
def test_other_trouble_is_not_mistaken_for_it(provoke: Callable[[], object]) -> None:
    assert not is_out_of_memory(raised(provoke))
