"""Products with frozen weights in fp8 (e4m3), forward and for the gradient of the input.

A matrix is kept twice. Each output has a scale for y = x W^T; for dx = dy W the matrix stands
transposed with a scale for each input, since matrix units want both operands with the axis that is
summed over side by side (NVIDIA's Hopper: cuBLASLt's manual, fp8). Both together take what one
bf16 matrix takes. What is multiplied with it is quantised on the way, with a scale for each token.

Gradients are e4m3 too, not e5m2, whose range is usual for them: with a scale for each token e4m3
reaches down to 2^-18 of the largest number, and its third bit of mantissa halves the error. Of a
real step's gradients 1.4 to 2.0 % are lost in e4m3, 2.9 to 3.9 % in e5m2 (measured;
tests/lora/test_fp8_base.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.variants import REFERENCE
from danlu.device.weight_forms import PIECE
from danlu.ops import reference
from danlu.ops.choice import NotHere, Operation
from danlu.ops.frozen.frozen_product import frozen_product
from danlu.ops.frozen.quantized import pieces_of

FP8 = torch.float8_e4m3fn
# What all sizes but the number of tokens must be a multiple of (torch's _scaled_mm).
FP8_MULTIPLE = 16


class Fp8Matrix(NamedTuple):
    """A matrix [out, in]: values of that shape and scales [out]; columns [in, out], scales [in]."""

    values: Tensor
    scales: Tensor
    columns: Tensor
    column_scales: Tensor


def empty_fp8(weight: Tensor, device: torch.device) -> Fp8Matrix:
    """Return what `quantize_fp8` fills for a weight of this shape (a meta tensor will do)."""
    outputs, inputs = weight.shape
    return Fp8Matrix(
        torch.empty(outputs, inputs, dtype=FP8, device=device),
        torch.empty(outputs, device=device),
        torch.empty(inputs, outputs, dtype=FP8, device=device),
        torch.empty(inputs, device=device),
    )


def quantize_fp8(weight: Tensor, *, out: Fp8Matrix | None = None) -> Fp8Matrix:
    """Quantise [out, in], a piece at a time."""
    matrix = out or empty_fp8(weight, weight.device)
    for whole, values, scales in (
        (weight, matrix.values, matrix.scales),
        (weight.t(), matrix.columns, matrix.column_scales),
    ):
        for rows in pieces_of(PIECE, *whole.shape):
            values[rows], scales[rows] = reference.quantized_rows(whole[rows])
    return matrix


def fp8_linear(x: Tensor, matrix: Fp8Matrix) -> Tensor:
    """Multiply x [T, in] with a frozen matrix -> [T, out]."""
    variant = FP8_LINEAR.on(x.device)
    return frozen_product(
        x,
        lambda rows: variant(rows, matrix.values, matrix.scales),
        lambda dy: fp8_input_gradient(dy, matrix),
    )


def fp8_input_gradient(dy: Tensor, matrix: Fp8Matrix) -> Tensor:
    """Return the gradient [T, in] of the input of `fp8_linear`, from its output's [T, out]."""
    return FP8_LINEAR.on(dy.device)(dy, matrix.columns, matrix.column_scales)


def multiplies_fp8(device: torch.device) -> bool:
    """Whether a device multiplies in fp8, or the twin was asked for by name."""
    return FP8_LINEAR.name_on(device) != REFERENCE or FP8_LINEAR.is_wanted


# x [T, in], values [out, in] in fp8, scales [out] in fp32 -> [T, out] in the dtype of x.
Variant = Callable[[Tensor, Tensor, Tensor], Tensor]


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Multiply numbers that e4m3, bf16 and all sums hold exactly, so that every dtype agrees.

    The largest of a row is 7, 448 / 64: its scale is a power of two.
    """
    if device.type == "npu":
        raise NotHere("an Ascend 910B has no numbers in fp8")
    places = torch.arange(32 * 64).view(32, 64)
    weight = (places * 5 % 13 - 6).where(places % 7 < 2, torch.tensor(0)).float()
    x = (places[:6] * 3 % 11 - 5).where(places[:6] % 3 < 1, torch.tensor(0)).float()
    for matrix in (weight, x):
        matrix[:, 3] = 7.0
    x[2] *= 1 / 8
    x[4] = 0.0
    values, scales = reference.quantized_rows(weight)
    return [variant(x.to(device, dtype), sent(values, device), sent(scales, device))]


FP8_LINEAR: Operation[Variant] = Operation(
    "fp8_linear", {"reference": reference.fp8_linear}, _trial
)
