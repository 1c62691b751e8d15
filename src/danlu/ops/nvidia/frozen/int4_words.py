"""The form of int4 weights that the kernels in Triton read; `int4_kernels.py` says how it lies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from danlu.device.weight_forms import INT4_GROUP, LARGE_PIECE
from danlu.ops.frozen.int4 import int4_levels
from danlu.ops.frozen.quantized import FewBitsForm, Stored, pieces_of, product_by_pieces
from danlu.ops.nvidia.late_import import late

# The most rows of a product that reads the weights as they are stored.
_MOST_ROWS = 64
_linear, _floats = late("frozen.int4", "linear"), late("frozen.int4", "floats")


def _empty(weight: Tensor, device: torch.device) -> Stored:
    outputs, inputs = weight.shape
    groups = inputs // INT4_GROUP
    packed = torch.empty(outputs, groups, 4, dtype=torch.int32, device=device)
    return packed, torch.empty(outputs, groups, 2, dtype=weight.dtype, device=device)


def _store(out: Stored, place: slice, levels: Tensor, scales: Tensor, zeros: Tensor) -> None:
    packed, scales_and_zeros = out
    words = torch.zeros_like(packed[place])
    for number, some in enumerate(levels.view(len(levels), -1, 8, 4).unbind(2)):
        words |= some.int() << 4 * number
    packed[place] = words
    scales_and_zeros[place] = torch.stack((scales, zeros), dim=-1)


def _pieces(
    packed: Tensor, scales_and_zeros: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    outputs, groups, _words = packed.shape
    for rows in pieces_of(LARGE_PIECE, outputs, groups * INT4_GROUP):
        yield rows, _floats(packed[rows], scales_and_zeros[rows], dtype)


def _product(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    if 0 < len(x) <= _MOST_ROWS:
        some: Tensor = _linear(x, packed, scales_and_zeros)
        return some
    return product_by_pieces(_pieces, (packed, scales_and_zeros), x, len(packed))


INT4_WORDS = FewBitsForm(_empty, int4_levels(lambda: 1, _store), _pieces, _product)
