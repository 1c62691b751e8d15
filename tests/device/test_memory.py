"""Running out of memory is told from every other trouble, by errors that really happened."""

from __future__ import annotations

import ctypes
import subprocess
import sys
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


MANY_SIZES = """
import ctypes, torch
from danlu.device.detect import select

class Heap(ctypes.Structure):  # glibc's struct mallinfo2
    _fields_ = [(f"f{n}", ctypes.c_size_t) for n in range(10)]

def in_use():
    tell = ctypes.CDLL(None).mallinfo2
    tell.restype = Heap
    return tell().f7

select("cpu")
weights = torch.ones(64, 64, dtype=torch.bfloat16)
def products(sizes):
    for size in sizes:
        torch.ones(size, 64, dtype=torch.bfloat16) @ weights
products(range(100, 200))
before = in_use()
products(range(200, 700))
print(in_use() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc tells it from 2.33")
def test_products_of_many_sizes_do_not_pile_up() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY_SIZES], stdout=subprocess.PIPE, text=True, check=True
    )
    assert int(done.stdout) < 10_000_000  # 135 MB with torch's own limit of 1,024 sizes
