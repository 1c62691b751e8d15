"""int8 and int4 weights as the C++ kernels read them (native/kernels.h): words of some inputs.

values [tiles, in / 4 or 8, TILE] int32: four int8 or eight int4 of an output in a word; scales
[tiles, groups, TILE], int4: and zeros, [tiles, groups, TILE, 2], bf16 whatever the model computes
in. Filler, behind the outputs and, in int8, behind the inputs, is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from danlu.ops.frozen.quantized import PIECE, Cut, FewBitsForm, Stored, pieces_of
from danlu.ops.native.library import Int, KernelCall, Kind, Pointer, Size, library
from danlu.ops.native.native_linear import INT4, INT8, TILE, FewBitsProduct

# Inputs that share a scale, as in native/kernels.h.
_GROUP = 32
# Inputs in a word.
_FOUR, _EIGHT = 4, 8


class _Quantize(KernelCall):
    kind = Kind.QUANTIZE
    _fields_ = (
        *((name, Pointer) for name in ("weight", "values", "scales")),
        ("outputs", Size),
        ("inputs", Size),
        ("form", Int),
        ("is_float", Int),
    )


def _empty(weight: Tensor, device: torch.device, in_word: int, *per_group: int) -> Stored:
    outputs, inputs = weight.shape
    tiles, words = -(-outputs // TILE), -(-inputs // in_word)
    values = torch.empty(tiles, words, TILE, dtype=torch.int32, device=device)
    return values, torch.empty(tiles, *per_group, dtype=torch.bfloat16, device=device)


def _empty_int8(weight: Tensor, device: torch.device) -> Stored:
    return _empty(weight, device, _FOUR, -(-weight.shape[1] // _GROUP), TILE)


def _empty_int4(weight: Tensor, device: torch.device) -> Stored:
    return _empty(weight, device, _EIGHT, weight.shape[1] // _GROUP, TILE, 2)


def _tiles_of(place: slice) -> slice:
    return slice(place.start // TILE, -(-place.stop // TILE))


def _fill(form: int, out: Stored, weight: Tensor) -> None:
    if weight.dtype not in (torch.bfloat16, torch.float32):
        weight = weight.float()
    weight = weight.detach().contiguous()
    values, scales = out
    call = _Quantize(
        weight=weight,
        values=values,
        scales=scales,
        outputs=weight.shape[0],
        inputs=weight.shape[1],
        form=form,
        is_float=weight.dtype == torch.float32,
    )
    library().run(call)


def _int8_floats(
    values: Tensor, scales: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    tiles, words, _tile = values.shape
    for rows in pieces_of(PIECE, tiles * TILE, words * _FOUR, TILE):
        some, of_groups = values[_tiles_of(rows)], scales[_tiles_of(rows)].to(dtype)
        bytes_ = some.view(torch.int8).view(-1, words, TILE, 2, 2).permute(0, 2, 1, 4, 3)
        weight = bytes_.to(dtype).reshape(-1, TILE, words * _FOUR)
        by_input = of_groups.repeat_interleave(_GROUP, dim=1)[:, : words * _FOUR]
        yield rows, weight.mul_(by_input.transpose(1, 2)).flatten(0, 1)


def _int4_floats(
    values: Tensor, scales: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    tiles, words, _tile = values.shape
    for rows in pieces_of(PIECE, tiles * TILE, words * _EIGHT, TILE):
        some = values[_tiles_of(rows)].transpose(1, 2)  # [tiles, TILE, words]
        eights = torch.stack([some >> 4 * place & 15 for place in (0, 4, 1, 5, 2, 6, 3, 7)], dim=-1)
        levels = eights.view(-1, words * _EIGHT // _GROUP, _GROUP).to(dtype).sub_(8)
        of_groups = scales[_tiles_of(rows)].to(dtype).transpose(1, 2).reshape(len(levels), -1, 1, 2)
        weight = torch.addcmul(of_groups[..., 1], levels, of_groups[..., 0])
        yield rows, weight.flatten(1)


def _take_tiles(values: Tensor, scales: Tensor, outputs: slice) -> Stored:
    tiles = _tiles_of(outputs)
    return values[tiles], scales[tiles]


_CUT = Cut(lambda: TILE, _take_tiles)
NATIVE_INT8 = FewBitsForm(
    _empty_int8, partial(_fill, INT8), _int8_floats, FewBitsProduct(INT8, _FOUR), _CUT
)
NATIVE_INT4 = FewBitsForm(
    _empty_int4, partial(_fill, INT4), _int4_floats, FewBitsProduct(INT4, _EIGHT), _CUT
)
