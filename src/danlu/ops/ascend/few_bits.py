"""Products with int8 and int4 weights as they are stored: the kernel makes floats on its way.

y = x @ ((q + offset) * scale). int4 numbers lie eight in an int32 along the outputs, the first in
the lowest bits (op-plugin, ConvertWeightToInt4PackKernelNpuOpApi.cpp; it packs them on the host, so
it is not asked to): packed [matrices, in, W / 8] with W outputs each, and [matrices, 2, in /
INT4_GROUP, W] scales and offsets.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from danlu.device.weight_forms import INT4_GROUP, PIECE
from danlu.ops.frozen.int4 import int4_levels
from danlu.ops.frozen.quantized import (
    FewBitsForm,
    in_rows,
    int8_floats,
    pieces_of,
    product_by_pieces,
)

# The most rows or columns that the kernel takes; Qwen3's output matrix has more.
_LARGEST_SIDE = 65535
# Outputs that are stored together.
MULTIPLE = 64


def _int8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply x [rows, in] with an int8 weight [out, in]; the kernel takes 16-bit x only."""
    if x.dtype == torch.float32 or not len(x):
        return int8_floats(x, values, scales)
    parts = [
        torch.ops.npu.npu_weight_quant_batchmatmul(x, some.t(), scale)
        for some, scale in zip(
            values.split(_LARGEST_SIDE), scales.split(_LARGEST_SIDE), strict=True
        )
    ]
    joined: Tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return joined


def _multiple() -> int:
    return MULTIPLE


def _empty(weight: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    outputs, inputs = weight.shape
    count = -(-outputs // (_LARGEST_SIDE // MULTIPLE * MULTIPLE))
    width = -(-outputs // (count * MULTIPLE)) * MULTIPLE
    packed = torch.empty(count, inputs, width // 8, dtype=torch.int32, device=device)
    shape = (count, 2, inputs // INT4_GROUP, width)
    return packed, torch.zeros(shape, dtype=weight.dtype, device=device)


def _store(
    out: tuple[Tensor, Tensor], place: slice, levels: Tensor, scales: Tensor, zeros: Tensor
) -> None:
    packed, parameters = out
    width = parameters.shape[3]
    # Where all weights of a group are alike, the offset says which: times 1.
    divisors = torch.where(scales == 0, 1, scales)
    stored = torch.stack((divisors.t(), (zeros / divisors).t()))  # [2, groups, some]
    words = _words((levels.int() - 8).t())  # [in, some / 8]
    for matrix in range(place.start // width, (place.stop - 1) // width + 1):
        start, stop = max(place.start, matrix * width), min(place.stop, (matrix + 1) * width)
        there = slice(start - matrix * width, stop - matrix * width)
        here = slice(start - place.start, stop - place.start)
        parameters[matrix, :, :, there] = stored[:, :, here]
        packed[matrix, :, there.start // 8 : there.stop // 8] = words[
            :, here.start // 8 : here.stop // 8
        ]


def _words(numbers: Tensor) -> Tensor:
    """Pack numbers in [-8, 7], eight in an int32: [in, out] -> [in, out / 8]."""
    eights = numbers.reshape(len(numbers), -1, 8) & 15
    words = eights[..., 0].clone()
    for place in range(1, 8):
        words |= eights[..., place] << 4 * place
    return words


def _numbers(words: Tensor) -> Tensor:
    """Unpack what `_words` packs."""
    # To the top and back: the sign comes along.
    eights = [(words << 28 - 4 * place) >> 28 for place in range(8)]
    return torch.stack(eights, dim=-1).flatten(-2)


def _floats(
    packed: Tensor, parameters: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    count, inputs, eighth = packed.shape
    width = 8 * eighth
    for matrix in range(count):
        for rows in pieces_of(PIECE, width, inputs, MULTIPLE):
            numbers = _numbers(packed[matrix, :, rows.start // 8 : rows.stop // 8]).to(dtype)
            scales, offsets = parameters[matrix, :, :, None, rows].to(dtype)
            groups = numbers.view(-1, INT4_GROUP, numbers.shape[1])
            weight = ((groups + offsets) * scales).view(inputs, -1).t()
            yield slice(matrix * width + rows.start, matrix * width + rows.stop), weight


def _int4_linear(x: Tensor, packed: Tensor, parameters: Tensor) -> Tensor:
    if x.dtype == torch.float32 or not len(x):
        outputs = 8 * packed.shape[2] * len(packed)
        return product_by_pieces(_floats, (packed, parameters), x, outputs)
    parts = [
        torch.ops.npu.npu_weight_quant_batchmatmul(
            x, words, scales, antiquant_offset=offsets, antiquant_group_size=INT4_GROUP
        )
        for words, (scales, offsets) in zip(packed, parameters, strict=True)
    ]
    joined: Tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return joined


INT8 = in_rows(_int8_linear)
INT4 = FewBitsForm(_empty, int4_levels(_multiple, _store), _floats, _int4_linear)
