"""Products with int8 and int4 weights, which get no gradient; activations keep their dtype.

- int8: each output has one scale, w = q * scale with q in [-127, 127].
- int4: each `INT4_GROUP` inputs of an output have a scale and a zero, w = (q - 8) * scale + zero
  with q in [0, 15]. B outputs form a tile: packed [out / B, in, B / 2], where the low half of a
  byte belongs to the tile's first B / 2 outputs and the high half to the others.

These are the forms of aten's CPU kernels (ATen/native/LinearAlgebra.cpp: `_weight_int8pack_mm`,
`_weight_int4pack_mm_for_cpu`). A kernel reads each weight as it is stored, which is what few rows
wait for: decoding. For more rows its arithmetic is slower than making floats of the weights, a
piece at a time, and multiplying those (docs/performance.md); so do devices without a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.memory import sent
from danlu.ops import reference
from danlu.ops.choice import NotHere, Operation, example

INT4_GROUP = 32
# aten packs tiles of 64 outputs with AVX-512, of 32 with AVX2; others in an order we do not have.
_TILES = (64, 32)
# The most rows for which the kernels are faster.
INT8_KERNEL_ROWS = 4
INT4_KERNEL_ROWS = 48
# Numbers that are floats again at a time in a product: 8 MB in bf16.
_PIECE = 1 << 22
# Numbers that are quantised at a time: what that takes is small, and one place in the heap does.
_QUANTIZED_AT_ONCE = 1 << 17


def empty_int8(weight: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what `quantize_int8` fills for a weight of this shape (a meta tensor will do)."""
    # Not empty_like: of a meta tensor it makes torch import sympy, 36 MB.
    values = torch.empty(weight.shape, dtype=torch.int8, device=device)
    return values, torch.empty(len(weight), dtype=weight.dtype, device=device)


def empty_int4(weight: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what `quantize_int4` fills for a weight of this shape (a meta tensor will do)."""
    outputs, inputs = weight.shape
    tile = int4_kernel_tile() or _TILES[0]
    tiles = -(-outputs // tile)
    packed = torch.empty(tiles, inputs, tile // 2, dtype=torch.uint8, device=device)
    groups = (inputs // INT4_GROUP, tiles * tile, 2)
    return packed, torch.empty(groups, dtype=weight.dtype, device=device)


def quantize_int8(
    weight: Tensor, *, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Quantise [out, in] to int8 values of that shape and scales [out] in the weight's dtype."""
    values, scales = out or empty_int8(weight, weight.device)
    for rows in _pieces(_QUANTIZED_AT_ONCE, *weight.shape):
        w = weight[rows].to(torch.float32, copy=True)
        # Rounded to its dtype first: the values then make up for it.
        scales[rows] = w.abs().amax(dim=1).div_(127)
        values[rows] = w.div_(_divisor(scales[rows, None])).round_().clamp_(-127, 127)
    return values, scales


def quantize_int4(
    weight: Tensor, *, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Quantise [out, in] to packed [tiles, in, B / 2] and [in / INT4_GROUP, tiles * B, 2].

    The last dimension of the second holds scale and zero, in the weight's dtype. `in` must be a
    multiple of INT4_GROUP; outputs that fill the last tile are zero.
    """
    packed, scales_and_zeros = out or empty_int4(weight, weight.device)
    outputs, inputs = weight.shape
    tile = 2 * packed.shape[2]
    for rows in _pieces(_QUANTIZED_AT_ONCE, outputs, inputs, tile):
        w = F.pad(weight[rows].float(), (0, 0, 0, -len(weight[rows]) % tile))
        w = w.view(len(w), inputs // INT4_GROUP, INT4_GROUP)
        low, high = w.aminmax(dim=-1)
        scales = (high - low).div_(15).to(weight.dtype)
        zeros = (low + 8 * scales).to(weight.dtype)
        levels = (w - zeros[..., None]).div_(_divisor(scales[..., None])).round_()
        nibbles = levels.add_(8).clamp_(0, 15).to(torch.uint8).view(-1, inputs)
        place = slice(rows.start, rows.start + len(w))
        scales_and_zeros[:, place] = torch.stack((scales.t(), zeros.t()), dim=-1)
        packed[rows.start // tile : place.stop // tile] = _pack(nibbles, tile)
    return packed, scales_and_zeros


def int8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply x [rows, in] with an int8 weight -> [rows, out]; scales in the dtype of x."""
    if not torch.is_grad_enabled():
        return INT8_LINEAR.on(x.device)(x, values, scales)
    return _Frozen.apply(x, values, scales, INT8_LINEAR, _int8_pieces)  # type: ignore[no-any-return, no-untyped-call]


def int4_linear(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """Multiply x [rows, in] with an int4 weight -> [rows, tiles * B]."""
    if not torch.is_grad_enabled():
        return INT4_LINEAR.on(x.device)(x, packed, scales_and_zeros)
    return _Frozen.apply(x, packed, scales_and_zeros, INT4_LINEAR, _int4_pieces)  # type: ignore[no-any-return, no-untyped-call]


class _Frozen(torch.autograd.Function):
    """A product whose weight is frozen: the gradient of x is made of floats, a piece at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        scales: Tensor,
        operation: Operation[Variant],
        pieces: Callable[[Tensor, Tensor, torch.dtype], Iterator[tuple[slice, Tensor]]],
    ) -> Tensor:
        ctx.save_for_backward(values, scales)
        ctx.pieces = pieces
        return operation.on(x.device)(x, values, scales)

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
    for rows in _pieces(_PIECE, *values.shape):
        yield rows, values[rows].to(dtype).mul_(scales[rows, None])


def _int4_pieces(
    packed: Tensor, scales_and_zeros: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    tiles, inputs, half = packed.shape
    tile = 2 * half
    for rows in _pieces(_PIECE, tiles * tile, inputs, tile):
        some = packed[rows.start // tile : rows.stop // tile]
        yield rows, _floats(some, scales_and_zeros[:, rows]).t()


def _int8_few_rows(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    if len(x) > INT8_KERNEL_ROWS:
        return int8_floats(x, values, scales)
    return torch.ops.aten._weight_int8pack_mm(x.contiguous(), values, scales)  # type: ignore[no-any-return]


def int8_floats(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    y = x.new_empty(len(x), len(values))
    for rows in _pieces(_PIECE, *values.shape):
        torch.mul(F.linear(x, values[rows].to(x.dtype)), scales[rows], out=y[:, rows])
    return y


def _int4_few_rows(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    if len(x) > INT4_KERNEL_ROWS:
        return _int4_floats(x, packed, scales_and_zeros)
    tiles, inputs, half = packed.shape
    as_aten_has_it = packed.view(tiles * 2 * half, inputs // 2)
    return torch.ops.aten._weight_int4pack_mm_for_cpu(  # type: ignore[no-any-return]
        x.contiguous(), as_aten_has_it, INT4_GROUP, scales_and_zeros
    )


def _int4_floats(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    tiles, _inputs, half = packed.shape
    y = x.new_empty(len(x), tiles * 2 * half)
    for rows, weight in _int4_pieces(packed, scales_and_zeros, x.dtype):
        torch.mm(x, weight.t(), out=y[:, rows])
    return y


@cache
def int4_kernel_tile() -> int:
    """Return how many outputs the CPU's int4 kernel packs together; 0: its form is not ours."""
    values = torch.arange(64 * 32, dtype=torch.uint8).view(64, 32).mul(37) >> 4
    theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1).flatten()
    matching = [b for b in _TILES if torch.equal(theirs, _pack(values, b).flatten())]
    return matching[0] if matching else 0


def _pack(nibbles: Tensor, tile: int) -> Tensor:
    """Pack [out, in] -> [out / tile, in, tile / 2]."""
    halves = nibbles.view(-1, 2, tile // 2, nibbles.shape[1])
    return (halves[:, 0] | halves[:, 1] << 4).transpose(1, 2).contiguous()


def _floats(packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """Make floats of tiles, transposed: [tiles, in, B / 2] -> [in, tiles * B]."""
    tiles, inputs, half = packed.shape
    by_input = packed.transpose(0, 1)
    scales, zeros = scales_and_zeros.unbind(-1)
    levels = scales.new_empty(inputs, tiles, 2 * half)
    # Bytes below 0 wrap around; read as signed ones, they are what was meant.
    levels[..., :half] = (by_input & 15).sub_(8).view(torch.int8)
    levels[..., half:] = (by_input >> 4).sub_(8).view(torch.int8)
    levels = levels.view(inputs // INT4_GROUP, INT4_GROUP, -1)
    zeros, scales = zeros.contiguous()[:, None], scales.contiguous()[:, None]
    return torch.addcmul(zeros, levels, scales).view(inputs, -1)


def _pieces(numbers: int, outputs: int, inputs: int, multiple: int = 1) -> Iterator[slice]:
    """Cut outputs into slices of about `numbers` weights, each but the last a `multiple` long."""
    size = max(1, numbers // (inputs * multiple)) * multiple
    for start in range(0, outputs, size):
        yield slice(start, min(start + size, outputs))


def _divisor(scales: Tensor) -> Tensor:
    """Return what to divide by: weights that are all alike have scale 0."""
    return torch.where(scales == 0, 1, scales)


Variant = Callable[[Tensor, Tensor, Tensor], Tensor]


def _tried(
    variant: Variant, device: torch.device, dtype: torch.dtype, stored: tuple[Tensor, Tensor]
) -> list[Tensor]:
    x = example(3, 64, device=device, dtype=dtype, seed=1)
    values, scales = stored  # rounded to bf16 once, for all dtypes
    with torch.no_grad():
        return [variant(x, sent(values, device), sent(scales.to(dtype), device))]


def _weight() -> Tensor:
    return example(128, 64, device=torch.device("cpu"), dtype=torch.bfloat16)


def _try_int8(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    return _tried(variant, device, dtype, quantize_int8(_weight()))


def _try_int4(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    if variant is _int4_few_rows and not int4_kernel_tile():
        raise NotHere("this processor's int4 kernel takes weights in another order")
    return _tried(variant, device, dtype, quantize_int4(_weight()))


INT8_LINEAR: Operation[Variant] = Operation(
    "int8_linear",
    {"few_rows": _int8_few_rows, "floats": int8_floats, "reference": reference.int8_linear},
    _try_int8,
)
INT4_LINEAR: Operation[Variant] = Operation(
    "int4_linear",
    {"few_rows": _int4_few_rows, "floats": _int4_floats, "reference": reference.int4_linear},
    _try_int4,
)
