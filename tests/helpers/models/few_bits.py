"""Weights in few bits, in the form of a device or in one by name."""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.choice import Operation
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.quantized import INT8_LINEAR, FewBitsForm, multiplied, quantized_in

OPERATIONS: dict[int, Operation[FewBitsForm]] = {8: INT8_LINEAR, 4: INT4_LINEAR}


def quantized(bits: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise in the form of the weight's device."""
    return quantized_in(OPERATIONS[bits].on(weight.device), weight)


def product(bits: int, x: Tensor, stored: tuple[Tensor, Tensor]) -> Tensor:
    """Multiply with what `quantized` has made on the same device."""
    return multiplied(OPERATIONS[bits].on(x.device), x, *stored)


def floats_of(form: FewBitsForm, stored: tuple[Tensor, Tensor]) -> Tensor:
    """Return a stored weight in fp32, filler included."""
    return torch.cat([weight for _rows, weight in form.floats(*stored, torch.float32)])
