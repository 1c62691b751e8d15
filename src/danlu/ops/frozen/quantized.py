"""Products with int8 weights, and what they share with int4 ones; no weight gets a gradient.

Each output has one scale, w = q * scale with q in [-127, 127]: the form of aten's CPU kernel
(ATen/native/LinearAlgebra.cpp: `_weight_int8pack_mm`). A kernel reads each weight as it is stored,
which is what few rows wait for: decoding. For more rows its arithmetic is slower than making
floats of the weights, a piece at a time, and multiplying those (docs/performance.md); so do devices
without a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.memory import sent
from danlu.ops import reference
from danlu.ops.choice import Operation, example

# The most rows for which the kernel is faster.
INT8_KERNEL_ROWS = 4
# Numbers that are floats again at a time in a product: 8 MB in bf16, and 128 MB on an accelerator,
# which would start many small products otherwise.
PIECE, LARGE_PIECE = 1 << 22, 1 << 26
# Numbers that are quantised at a time: what that takes is small, and one place in the heap does.
QUANTIZED_AT_ONCE = 1 << 17


def empty_int8(weight: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what `quantize_int8` fills for a weight of this shape (a meta tensor will do)."""
    # Not empty_like: of a meta tensor it makes torch import sympy, 36 MB.
    values = torch.empty(weight.shape, dtype=torch.int8, device=device)
    return values, torch.empty(len(weight), dtype=weight.dtype, device=device)


def quantize_int8(
    weight: Tensor, *, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Quantise [out, in] to int8 values of that shape and scales [out] in the weight's dtype."""
    values, scales = out or empty_int8(weight, weight.device)
    for rows in pieces_of(QUANTIZED_AT_ONCE, *weight.shape):
        w = weight[rows].to(torch.float32, copy=True)
        # Rounded to its dtype first: the values then make up for it.
        scales[rows] = w.abs().amax(dim=1).div_(127)
        values[rows] = w.div_(divisor_of(scales[rows, None])).round_().clamp_(-127, 127)
    return values, scales


def int8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply x [rows, in] with an int8 weight -> [rows, out]; scales in the dtype of x."""
    if not torch.is_grad_enabled():
        return INT8_LINEAR.on(x.device)(x, values, scales)
    return Frozen.apply(x, values, scales, INT8_LINEAR.on(x.device), _int8_pieces)  # type: ignore[no-any-return, no-untyped-call]


class Frozen(torch.autograd.Function):
    """A product whose weight is frozen: the gradient of x is made of floats, a piece at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        scales: Tensor,
        linear: Variant,
        pieces: Callable[[Tensor, Tensor, torch.dtype], Iterator[tuple[slice, Tensor]]],
    ) -> Tensor:
        ctx.save_for_backward(values, scales)
        ctx.pieces = pieces
        return linear(x, values, scales)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, scales = ctx.saved_tensors
        total: Tensor | None = None
        for rows, weight in ctx.pieces(values, scales, grad.dtype):
            some = grad[:, rows]
            total = some @ weight if total is None else total.addmm_(some, weight)
        return total, None, None, None, None


def _int8_pieces(
    values: Tensor, scales: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Yield outputs and their weights as floats, [some, in]."""
    for rows in pieces_of(_piece(values.device), *values.shape):
        yield rows, values[rows].to(dtype).mul_(scales[rows, None])


def _int8_few_rows(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    if len(x) > INT8_KERNEL_ROWS:
        return int8_floats(x, values, scales)
    return torch.ops.aten._weight_int8pack_mm(x.contiguous(), values, scales)  # type: ignore[no-any-return]


def int8_floats(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply with floats made of values, a piece at a time."""
    y = x.new_empty(len(x), len(values))
    for rows in pieces_of(_piece(x.device), *values.shape):
        torch.mul(F.linear(x, values[rows].to(x.dtype)), scales[rows], out=y[:, rows])
    return y


def _piece(device: torch.device) -> int:
    return PIECE if device.type == "cpu" else LARGE_PIECE


def pieces_of(numbers: int, outputs: int, inputs: int, multiple: int = 1) -> Iterator[slice]:
    """Cut outputs into slices of about `numbers` weights, each but the last a `multiple` long."""
    size = max(1, numbers // (inputs * multiple)) * multiple
    for start in range(0, outputs, size):
        yield slice(start, min(start + size, outputs))


def divisor_of(scales: Tensor) -> Tensor:
    """Return what to divide by: weights that are all alike have scale 0."""
    return torch.where(scales == 0, 1, scales)


Variant = Callable[[Tensor, Tensor, Tensor], Tensor]


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    weight = example(128, 64, device=torch.device("cpu"), dtype=torch.bfloat16)
    values, scales = quantize_int8(weight)  # rounded to bf16 once, for all dtypes
    x = example(3, 64, device=device, dtype=dtype, seed=1)
    with torch.no_grad():
        return [variant(x, sent(values, device), sent(scales.to(dtype), device))]


INT8_LINEAR: Operation[Variant] = Operation(
    "int8_linear",
    {"few_rows": _int8_few_rows, "floats": int8_floats, "reference": reference.int8_linear},
    _trial,
)
