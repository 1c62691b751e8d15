"""The forms of int8 and int4 weights that the kernels in Triton read.

A group is four words of 32 bits side by side: 32 inputs in int4, 16 in int8, so 4 or 2 places of 8
inputs each. Input 2 j + h of a place lies in word j, at bit (bits times the place) in the lower
half for h = 0 and in the upper half for h = 1. So one shift and one mask bring a pair of inputs
into the two halves of a register, and a place's inputs are read side by side.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.weight_forms import INT4_GROUP, LARGE_PIECE
from danlu.ops.frozen.int4 import int4_levels
from danlu.ops.frozen.quantized import (
    FewBitsForm,
    Stored,
    int8_values,
    pieces_of,
    product_by_pieces,
)
from danlu.ops.nvidia.late_import import late

# Inputs of a group in int8, and the most rows of a product that reads the weights as they are.
INT8_GROUP, MOST_ROWS = 16, 64
_linear, _floats = late("frozen.few_bits", "linear"), late("frozen.few_bits", "floats")


def _empty_int8(weight: Tensor, device: torch.device) -> Stored:
    outputs, inputs = weight.shape
    groups = -(-inputs // INT8_GROUP)
    packed = torch.empty(outputs, groups, 4, dtype=torch.int32, device=device)
    return packed, torch.empty(outputs, dtype=weight.dtype, device=device)


def _empty_int4(weight: Tensor, device: torch.device) -> Stored:
    outputs, inputs = weight.shape
    groups = inputs // INT4_GROUP
    packed = torch.empty(outputs, groups, 4, dtype=torch.int32, device=device)
    return packed, torch.empty(outputs, groups, 2, dtype=weight.dtype, device=device)


def _store_int8(out: Stored, place: slice, values: Tensor, scales: Tensor) -> None:
    packed, all_scales = out
    values = F.pad(values, (0, -values.shape[1] % INT8_GROUP))
    # [outputs, groups, place, word, half]; the bytes of a word are its halves' places.
    values = values.view(len(values), -1, 2, 4, 2).permute(0, 1, 3, 4, 2)
    packed[place] = values.reshape(*values.shape[:3], 4).view(torch.int32).squeeze(3)
    all_scales[place] = scales


def _store_int4(out: Stored, place: slice, levels: Tensor, scales: Tensor, zeros: Tensor) -> None:
    packed, scales_and_zeros = out
    words = torch.zeros_like(packed[place])
    for number, some in enumerate(levels.view(len(levels), -1, 4, 4, 2).unbind(2)):
        for half, level in enumerate(some.unbind(3)):
            words |= level.int() << 4 * number + 16 * half
    packed[place] = words
    scales_and_zeros[place] = torch.stack((scales, zeros), dim=-1)


def _pieces(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    outputs, groups, _words = packed.shape
    group = INT8_GROUP if scales.dim() == 1 else INT4_GROUP
    for rows in pieces_of(LARGE_PIECE, outputs, groups * group):
        yield rows, _floats(packed[rows], scales[rows], dtype)


def _product(x: Tensor, packed: Tensor, scales: Tensor, residual: Tensor | None = None) -> Tensor:
    # The kernels make floats of the scales' dtype, too.
    if 0 < len(x) <= MOST_ROWS and is_16_bits(x.dtype) and x.dtype == scales.dtype:
        some: Tensor = _linear(x, packed, scales, residual)
        return some
    y = product_by_pieces(_pieces, (packed, scales), x, len(packed))
    return y if residual is None else y.add_(residual)


def is_16_bits(dtype: torch.dtype) -> bool:
    """Say whether the kernels multiply numbers of a dtype: pairs in 32 bits."""
    return dtype.itemsize == 2


INT8_WORDS = FewBitsForm(_empty_int8, int8_values(_store_int8), _pieces, _product, added=_product)
INT4_WORDS = FewBitsForm(
    _empty_int4, int4_levels(lambda: 1, _store_int4), _pieces, _product, added=_product
)
