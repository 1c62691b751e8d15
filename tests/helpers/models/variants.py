"""Operations that compute with another variant than the one that was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import pytest

from danlu.device.variants import (
    ASCEND,
    NATIVE,
    REFERENCE,
    SCALED_MM,
    TRITON,
    preferred_variants,
)
from danlu.ops.choice import _OPERATIONS, Operation

T = TypeVar("T")
# What an NVIDIA card computes with, besides kernels in Triton.
_ON_NVIDIA = {
    "look_up": REFERENCE,
    "low_rank": "as_one",
    "residual": "in_product",
    "accumulate": "at_once",
    "fp8_linear": SCALED_MM,
}


@contextmanager
def taken(operation: Operation[T], name: str, kind: str = "cpu") -> Iterator[None]:
    """Compute with a variant on a kind of device for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(operation._chosen, kind, (name, operation.variants[name]))
        yield


@contextmanager
def torch_variants() -> Iterator[None]:
    """Compute on the CPU with torch's operations, as where the kernels in C++ were not built."""
    with ExitStack() as stack:
        for name, operation in _OPERATIONS.items():
            if NATIVE in operation.variants:
                others = [other for other in preferred_variants("cpu")[name] if other != NATIVE]
                stack.enter_context(taken(operation, [*others, REFERENCE][0]))
        yield


@contextmanager
def ascend_variants() -> Iterator[None]:
    """Compute with Ascend's fused kernels, as a card does by itself."""
    with ExitStack() as stack:
        for operation in _OPERATIONS.values():
            if ASCEND in operation.variants:
                stack.enter_context(taken(operation, ASCEND, "npu"))
        yield


@contextmanager
def nvidia_variants(kind: str = "cpu") -> Iterator[None]:
    """Compute training on another kind of device as an NVIDIA card does.

    Attention excepted, whose kernel is torch's own.
    """
    with ExitStack() as stack:
        for name, operation in _OPERATIONS.items():
            if TRITON in operation.variants:
                stack.enter_context(taken(operation, TRITON, kind))
            elif name in _ON_NVIDIA:
                stack.enter_context(taken(operation, _ON_NVIDIA[name], kind))
        yield
