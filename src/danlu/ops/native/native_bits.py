"""int8 and int4 weights as the C++ kernels read them (native/kernels.h): words of some inputs.

values [tiles, in / 4 or 8, TILE] int32: four int8 or eight int4 of an output in a word; scales
[tiles, groups, TILE], int4: and zeros, [tiles, groups, TILE, 2], bf16 whatever the model computes
in. Filler, behind the outputs and, in int8, behind the inputs, is zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops.frozen.int4 import INT4_GROUP, in_groups
from danlu.ops.frozen.quantized import (
    INT8_GROUP,
    PIECE,
    FewBitsForm,
    Stored,
    int8_levels,
    pieces_of,
)
from danlu.ops.native.library import library
from danlu.ops.native.native_linear import TILE, FewBitsProduct

# Inputs in a word.
_FOUR, _EIGHT = 4, 8


def _multiple() -> int:
    library()
    return TILE


def _empty(weight: Tensor, device: torch.device, in_word: int, *per_group: int) -> Stored:
    outputs, inputs = weight.shape
    tiles, words = -(-outputs // TILE), -(-inputs // in_word)
    values = torch.empty(tiles, words, TILE, dtype=torch.int32, device=device)
    return values, torch.empty(tiles, *per_group, dtype=torch.bfloat16, device=device)


def _empty_int8(weight: Tensor, device: torch.device) -> Stored:
    return _empty(weight, device, _FOUR, -(-weight.shape[1] // INT8_GROUP), TILE)


def _empty_int4(weight: Tensor, device: torch.device) -> Stored:
    return _empty(weight, device, _EIGHT, weight.shape[1] // INT4_GROUP, TILE, 2)


def _tiles_of(place: slice) -> slice:
    return slice(place.start // TILE, -(-place.stop // TILE))


def _store_int8(out: Stored, place: slice, q: Tensor, scales: Tensor) -> None:
    tiles = _tiles_of(place)
    # In a word's bytes the first inputs of its two pairs come first.
    pairs = F.pad(q, (0, -q.shape[1] % _FOUR)).view(-1, TILE, out[0].shape[1], 2, 2)
    words = pairs.transpose(3, 4).flatten(3).view(torch.int32)[..., 0]
    out[0][tiles] = words.transpose(1, 2)
    out[1][tiles] = scales.view(-1, TILE, scales.shape[1]).transpose(1, 2)


def _int8_floats(
    values: Tensor, scales: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    tiles, words, _tile = values.shape
    for rows in pieces_of(PIECE, tiles * TILE, words * _FOUR, TILE):
        some, of_groups = values[_tiles_of(rows)], scales[_tiles_of(rows)].to(dtype)
        bytes_ = some.view(torch.int8).view(-1, words, TILE, 2, 2).permute(0, 2, 1, 4, 3)
        weight = bytes_.to(dtype).reshape(-1, TILE, words * _FOUR)
        by_input = of_groups.repeat_interleave(INT8_GROUP, dim=1)[:, : words * _FOUR]
        yield rows, weight.mul_(by_input.transpose(1, 2)).flatten(0, 1)


def _store_int4(out: Stored, place: slice, q: Tensor, scales: Tensor, zeros: Tensor) -> None:
    tiles = _tiles_of(place)
    pairs = q.view(-1, TILE, out[0].shape[1], 4, 2).transpose(3, 4).reshape(*q.shape[:1], -1, 2)
    halves = (pairs[..., 0] | pairs[..., 1] << 4).view(-1, TILE, out[0].shape[1], 4)
    out[0][tiles] = halves.view(torch.int32)[..., 0].transpose(1, 2)
    both = torch.stack((scales, zeros), dim=-1)
    out[1][tiles] = both.view(-1, TILE, scales.shape[1], 2).transpose(1, 2)


def _int4_floats(
    values: Tensor, scales: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    tiles, words, _tile = values.shape
    for rows in pieces_of(PIECE, tiles * TILE, words * _EIGHT, TILE):
        some = values[_tiles_of(rows)].transpose(1, 2)  # [tiles, TILE, words]
        eights = torch.stack([some >> 4 * place & 15 for place in (0, 4, 1, 5, 2, 6, 3, 7)], dim=-1)
        levels = eights.view(-1, words * _EIGHT // INT4_GROUP, INT4_GROUP).to(dtype).sub_(8)
        of_groups = scales[_tiles_of(rows)].to(dtype).transpose(1, 2).reshape(len(levels), -1, 1, 2)
        weight = torch.addcmul(of_groups[..., 1], levels, of_groups[..., 0])
        yield rows, weight.flatten(1)


NATIVE_INT8 = FewBitsForm(
    int8_levels,
    INT8_GROUP,
    _multiple,
    _empty_int8,
    _store_int8,
    _int8_floats,
    FewBitsProduct(1, _FOUR),
)
NATIVE_INT4 = in_groups(
    _multiple, _empty_int4, _store_int4, _int4_floats, FewBitsProduct(2, _EIGHT)
)
