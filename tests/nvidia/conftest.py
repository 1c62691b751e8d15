"""Runs the kernels of `ops/nvidia` on the CPU, in Triton's interpreter.

Triton reads the variable when a kernel's module is imported, which only these tests do. Its
interpreter keeps bfloat16 as bits and multiplies matrices of those bits (3.6 to 3.9); here it
multiplies the numbers.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="no Triton: pip install triton")

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

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
