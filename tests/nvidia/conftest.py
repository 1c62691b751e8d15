"""Runs the kernels of `ops/nvidia` on the CPU, in Triton's interpreter.

Triton decides when it is imported whether kernels are interpreted, and other libraries import it,
too: so these tests want a process of their own, as `make test` gives them. The interpreter keeps
bfloat16 as bits and multiplies matrices of those bits (3.6 to 3.9); here it multiplies the numbers.
Where it rounds to bfloat16 it cuts off, and to e4m3, where the mantissa carries, it loses the carry
(127 becomes 64); here torch rounds. It runs no PTX; `inline_ptx.py` does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.nvidia.inline_ptx import create_inline_asm

HERE = Path(__file__).parent
CAME_TOO_LATE = "triton" in sys.modules

if not CAME_TOO_LATE:
    os.environ["TRITON_INTERPRET"] = "1"
tl = pytest.importorskip("triton.language", reason="no Triton: pip install triton")
interpreter = pytest.importorskip("triton.runtime.interpreter")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CAME_TOO_LATE:
        reason = "Triton was imported before: run tests/nvidia by itself"
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


_dot = interpreter.InterpreterBuilder.create_dot


def _wide(matrix: Any) -> Any:
    """The same numbers in fp32, which has those of bfloat16 in its upper half."""
    if matrix.dtype.scalar != tl.bfloat16:
        return matrix
    bits = matrix.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(bits.view(np.float32), tl.float32)


def _dot_of_numbers(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    return _dot(self, _wide(a), _wide(b), *rest)


interpreter.InterpreterBuilder.create_dot = _dot_of_numbers


_to_fp = interpreter.InterpreterBuilder.create_fp_to_fp


def _rounded_by_torch(self: Any, numbers: Any, dtype: Any, mode: Any) -> Any:
    if (numbers.dtype.scalar, dtype.scalar) != (tl.float32, tl.float8e4nv):
        return _to_fp(self, numbers, dtype, mode)
    rounded = torch.from_numpy(numbers.data).to(torch.float8_e4m3fn)
    return interpreter.TensorHandle(rounded.view(torch.uint8).numpy(), tl.float8e4nv)


interpreter.InterpreterBuilder.create_fp_to_fp = _rounded_by_torch


_cast = interpreter.InterpreterBuilder.cast_impl


def _cast_by_torch(self: Any, numbers: Any, dtype: Any) -> Any:
    if (numbers.dtype.scalar, dtype.scalar) != (tl.float32, tl.bfloat16):
        return _cast(self, numbers, dtype)
    rounded = torch.from_numpy(np.atleast_1d(numbers.data)).bfloat16().view(torch.int16)
    bits = rounded.numpy().view(np.uint16).reshape(np.shape(numbers.data))
    return interpreter.TensorHandle(bits, tl.bfloat16)


interpreter.InterpreterBuilder.cast_impl = _cast_by_torch
interpreter.InterpreterBuilder.create_inline_asm = create_inline_asm(interpreter)
