"""Products of few rows with int8 and int4 weights, which are read as they are stored.

Few rows wait for the weights' bytes alone. A program holds all rows and a few outputs; the inputs
are split between programs where outputs are too few to fill a card, and a second kernel adds what
they found, always in the same order. Whole numbers are multiplied as such, which is exact in 16
bits, and scaled in fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.int4 import INT4_GROUP, int4_floats
from danlu.ops.quantized import int8_floats

# The most rows; beyond, weights are made floats once for all of them.
_MOST_ROWS = 64
# Programs that fill a large card a few times over, and the most that share an output.
_PROGRAMS, _MOST_SPLITS = 512, 16
# Outputs and inputs of a tile of int8 weights; groups of int4 weights that are read at once.
_OUTPUTS, _INPUTS, _GROUPS = 32, 128, 4


def int8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """See `ops.int8_linear`."""
    rows, (outputs, inputs) = len(x), values.shape
    if not 0 < rows <= _MOST_ROWS:
        return int8_floats(x, values, scales)
    tiles = triton.cdiv(outputs, _OUTPUTS)
    splits = _splits(tiles, triton.cdiv(inputs, _INPUTS))
    y, parts = _results(x, outputs, splits)
    _int8_kernel[(tiles, splits)](
        *(x, values, scales, parts, rows, outputs, inputs, x.stride(0)),
        ROWS=_padded(rows),
        OUTPUTS=_OUTPUTS,
        INPUTS=_INPUTS,
        SPLITS=splits,
        num_stages=3,
    )
    return _added(parts, y, splits)


def int4_linear(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """See `ops.int4_linear`; weights in tiles."""
    rows, (tiles, inputs, half) = len(x), packed.shape
    if not 0 < rows <= _MOST_ROWS:
        return int4_floats(x, packed, scales_and_zeros)
    outputs = tiles * 2 * half
    splits = _splits(tiles, triton.cdiv(inputs, INT4_GROUP * _GROUPS))
    y, parts = _results(x, outputs, splits)
    _int4_kernel[(tiles, splits)](
        *(x, packed, scales_and_zeros, parts, rows, outputs, inputs, x.stride(0)),
        ROWS=_padded(rows),
        HALF=half,
        GROUP=INT4_GROUP,
        GROUPS=_GROUPS,
        SPLITS=splits,
        num_stages=3,
    )
    return _added(parts, y, splits)


def _padded(rows: int) -> int:
    return max(1 << (rows - 1).bit_length(), 16)


def _splits(tiles: int, steps: int) -> int:
    """Return how many programs share an output's inputs."""
    return max(1, min(_PROGRAMS // tiles, _MOST_SPLITS, steps))


def _results(x: Tensor, outputs: int, splits: int) -> tuple[Tensor, Tensor]:
    """Return the result, and where programs write: there, or beside each other in fp32."""
    y = x.new_empty(len(x), outputs)
    return y, x.new_empty(splits, len(x), outputs, dtype=torch.float32) if splits > 1 else y


def _added(parts: Tensor, y: Tensor, splits: int) -> Tensor:
    if splits > 1:
        block = 1024
        _add_kernel[(triton.cdiv(y.numel(), block),)](
            parts, y, y.numel(), SPLITS=splits, BLOCK=block
        )
    return y


# One kernel for any number of rows, where Triton would compile others for 1 and multiples of 16.
@triton.jit(do_not_specialize=["num_rows"])
def _int8_kernel(
    x, values, scales, parts, num_rows, outputs, inputs, x_stride,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(1)
    rows = tl.arange(0, ROWS)
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    there = columns < outputs
    total = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    own = tl.cdiv(tl.cdiv(inputs, SPLITS), INPUTS) * INPUTS
    for start in range(split * own, tl.minimum(inputs, (split + 1) * own), INPUTS):
        places = start + tl.arange(0, INPUTS)
        inside = places < inputs
        numbers = tl.load(
            x + rows[:, None] * x_stride + places[None, :],
            mask=(rows < num_rows)[:, None] & inside[None, :],
            other=0.0,
        )
        weights = tl.load(
            values + columns[:, None].to(tl.int64) * inputs + places[None, :],
            mask=there[:, None] & inside[None, :],
            other=0,
        )
        weights = tl.trans(weights).to(tl.float32).to(numbers.dtype)
        total = tl.dot(numbers, weights, total, input_precision="ieee")
    scale = tl.load(scales + columns, mask=there, other=0.0).to(tl.float32)
    _keep(parts, total * scale[None, :], rows, columns, num_rows, outputs, split)


@triton.jit(do_not_specialize=["num_rows"])
def _int4_kernel(
    x, packed, scales_and_zeros, parts, num_rows, outputs, inputs, x_stride,
    ROWS: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """x w = (x (q - 8)) scale + sum(x) zero, a group of inputs at a time."""
    tile, split = tl.program_id(0), tl.program_id(1)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, HALF)
    low_total = tl.zeros((ROWS, HALF), dtype=tl.float32)
    high_total = tl.zeros((ROWS, HALF), dtype=tl.float32)
    packed += tile.to(tl.int64) * inputs * HALF
    scales_and_zeros += tile * 4 * HALF
    groups = inputs // GROUP
    own = tl.cdiv(tl.cdiv(groups, SPLITS), GROUPS) * GROUPS
    for first in range(split * own, tl.minimum(groups, (split + 1) * own), GROUPS):
        for one in tl.static_range(GROUPS):
            group = first + one
            places = group * GROUP + tl.arange(0, GROUP)
            inside = places < inputs
            numbers = tl.load(
                x + rows[:, None] * x_stride + places[None, :],
                mask=(rows < num_rows)[:, None] & inside[None, :],
                other=0.0,
            )
            both = tl.load(
                packed + places[:, None] * HALF + columns[None, :],
                mask=inside[:, None],
                other=0,
            )
            found = scales_and_zeros + group.to(tl.int64) * outputs * 2 + 2 * columns
            sums = tl.sum(numbers.to(tl.float32), axis=1)
            is_group = tl.zeros_like(columns) + group < groups
            low_total += _of_group(numbers, sums, both & 15, found, is_group)
            high_total += _of_group(numbers, sums, both >> 4, found + 2 * HALF, is_group)
    columns += tile * 2 * HALF
    _keep(parts, low_total, rows, columns, num_rows, outputs, split)
    _keep(parts, high_total, rows, columns + HALF, num_rows, outputs, split)


@triton.jit
def _of_group(numbers, sums, levels, scales_and_zeros, is_group):
    weights = (levels.to(tl.float32) - 8).to(numbers.dtype)
    product = tl.dot(numbers, weights, input_precision="ieee")
    scales = tl.load(scales_and_zeros, mask=is_group, other=0.0).to(tl.float32)
    zeros = tl.load(scales_and_zeros + 1, mask=is_group, other=0.0).to(tl.float32)
    return product * scales[None, :] + sums[:, None] * zeros[None, :]


@triton.jit
def _keep(parts, found, rows, columns, num_rows, outputs, split):
    there = parts + (split * num_rows + rows)[:, None].to(tl.int64) * outputs + columns[None, :]
    tl.store(there, found, mask=(rows < num_rows)[:, None] & (columns < outputs)[None, :])


@triton.jit
def _add_kernel(parts, y, size, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts + split * size.to(tl.int64) + places, mask=inside, other=0.0)
    tl.store(y + places, total, mask=inside)
