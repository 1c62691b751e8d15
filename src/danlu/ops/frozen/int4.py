"""Products with int4 weights, which get no gradient; activations keep their dtype.

Each `INT4_GROUP` inputs of an output have a scale and a zero: w = (q - 8) * scale + zero with q in
[0, 15]. How the numbers lie is a form's own: the kernels' of a device. Filler behind the outputs is
zero.

In tiles, B outputs each: packed [tiles, in, B / 2] bytes, where the low half of a byte belongs to
the tile's first B / 2 outputs and the high half to the others, and [in / INT4_GROUP, tiles * B, 2]
scales and zeros: as aten's CPU kernel has them (ATen/native/LinearAlgebra.cpp,
`_weight_int4pack_mm_for_cpu`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.weight_forms import INT4_GROUP, PIECE, quantized_at_once
from danlu.ops import reference
from danlu.ops.choice import NotHere, Operation
from danlu.ops.frozen.quantized import (
    Cut,
    FewBitsForm,
    Product,
    Stored,
    divisor_of,
    form_trial,
    pieces_of,
    product_by_pieces,
)

# aten packs tiles of 64 outputs with AVX-512, of 32 with AVX2; others in an order we do not have.
_TILES = (64, 32)
# The most rows for which the kernel is faster.
INT4_KERNEL_ROWS = 48


def int4_levels(
    multiple: Callable[[], int], store: Callable[[Stored, slice, Tensor, Tensor, Tensor], None]
) -> Callable[[Stored, Tensor], None]:
    """Return a form's `fill`, from levels that span each group's range.

    multiple(): outputs that are stored together. store(out, place, levels, scales, zeros): levels
    uint8 [some, in], scales and zeros [some, groups] of the outputs in a slice.
    """

    def fill(out: Stored, weight: Tensor) -> None:
        outputs, inputs = weight.shape
        together = multiple()
        at_once = quantized_at_once(weight.device.type)
        for rows in pieces_of(at_once, outputs, inputs, together):
            w = F.pad(weight[rows].float(), (0, 0, 0, -len(weight[rows]) % together))
            w = w.view(len(w), inputs // INT4_GROUP, INT4_GROUP)
            low, high = w.aminmax(dim=-1)
            # Rounded to their dtype first: the levels then make up for it.
            scales = (high - low).div_(15).to(weight.dtype)
            zeros = (low + 8 * scales).to(weight.dtype)
            levels = (w - zeros[..., None]).div_(divisor_of(scales[..., None])).round_()
            levels = levels.add_(8).clamp_(0, 15).to(torch.uint8).view(-1, inputs)
            store(out, slice(rows.start, rows.start + len(w)), levels, scales, zeros)

    return fill


@cache
def _tile() -> int:
    return int4_kernel_tile() or _TILES[0]


def _empty_tiles(weight: Tensor, device: torch.device) -> Stored:
    outputs, inputs = weight.shape
    tile = _tile()
    tiles = -(-outputs // tile)
    packed = torch.empty(tiles, inputs, tile // 2, dtype=torch.uint8, device=device)
    groups = (inputs // INT4_GROUP, tiles * tile, 2)
    return packed, torch.empty(groups, dtype=weight.dtype, device=device)


def _store_tiles(out: Stored, place: slice, levels: Tensor, scales: Tensor, zeros: Tensor) -> None:
    packed, scales_and_zeros = out
    tile = 2 * packed.shape[2]
    scales_and_zeros[:, place] = torch.stack((scales.t(), zeros.t()), dim=-1)
    packed[place.start // tile : place.stop // tile] = _pack(levels, tile)


def _tile_floats(
    packed: Tensor, scales_and_zeros: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    tiles, inputs, half = packed.shape
    tile = 2 * half
    for rows in pieces_of(PIECE, tiles * tile, inputs, tile):
        some = packed[rows.start // tile : rows.stop // tile]
        yield rows, _floats(some, scales_and_zeros[:, rows].to(dtype)).t()


def _take_tiles(packed: Tensor, scales_and_zeros: Tensor, outputs: slice) -> Stored:
    tile = 2 * packed.shape[2]
    tiles = slice(outputs.start // tile, outputs.stop // tile)
    return packed[tiles], scales_and_zeros[:, outputs].contiguous()


def _few_rows(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    if len(x) > INT4_KERNEL_ROWS:
        return int4_floats(x, packed, scales_and_zeros)
    tiles, inputs, half = packed.shape
    as_aten_has_it = packed.view(tiles * 2 * half, inputs // 2)
    return torch.ops.aten._weight_int4pack_mm_for_cpu(  # type: ignore[no-any-return]
        x.contiguous(), as_aten_has_it, INT4_GROUP, scales_and_zeros
    )


def int4_floats(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """Multiply with floats made of tiles, a piece at a time."""
    tiles, _inputs, half = packed.shape
    return product_by_pieces(_tile_floats, (packed, scales_and_zeros), x, tiles * 2 * half)


@cache
def int4_kernel_tile() -> int:
    """Return how many outputs the CPU's int4 kernel packs together; 0: its form is not ours."""
    values = torch.arange(64 * 32, dtype=torch.uint8).view(64, 32).mul(37) >> 4
    theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1).flatten()
    matching = [b for b in _TILES if torch.equal(theirs, _pack(values, b).flatten())]
    return matching[0] if matching else 0


def _pack(levels: Tensor, tile: int) -> Tensor:
    """Pack [out, in] -> [out / tile, in, tile / 2]."""
    halves = levels.view(-1, 2, tile // 2, levels.shape[1])
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


def in_tiles(linear: Product) -> FewBitsForm:
    """Return the form in tiles, with a product of its own."""
    fill = int4_levels(_tile, _store_tiles)
    return FewBitsForm(_empty_tiles, fill, _tile_floats, linear, cut=Cut(_tile, _take_tiles))


def _trial(form: FewBitsForm, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    if form.linear is _few_rows and not int4_kernel_tile():
        raise NotHere("this processor's int4 kernel takes weights in another order")
    return form_trial(form, 7.5, device, dtype)


INT4_LINEAR: Operation[FewBitsForm] = Operation(
    "int4_linear",
    {
        "few_rows": in_tiles(_few_rows),
        "floats": in_tiles(int4_floats),
        "reference": in_tiles(reference.int4_linear),
    },
    _trial,
)
