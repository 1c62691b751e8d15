"""Products of few rows with int8 weights, which are read as they are stored.

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

from danlu.ops.frozen.quantized import int8_floats

# The most rows; beyond, weights are made floats once for all of them.
_MOST_ROWS = 64
# Programs that fill a large card a few times over, and the most that share an output.
_PROGRAMS, _MOST_SPLITS = 512, 16
# Outputs, inputs and how many are on their way of a tile: where rows are as few as a product has at
# least, and where they are more. On an H200, without splits, 8 rows of Qwen3-8B's four projections
# took 92 us with the first and 124 with the second; 64 rows of the widest 82 and 55.
_FEW_ROWS, _FEW_TILE, _TILE = 16, (32, 256, 3), (64, 128, 4)


def int8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """See `ops.int8_linear`."""
    rows, (outputs, inputs) = len(x), values.shape
    if not 0 < rows <= _MOST_ROWS:
        return int8_floats(x, values, scales)
    tile, at_once, stages = _FEW_TILE if rows <= _FEW_ROWS else _TILE
    tiles = triton.cdiv(outputs, tile)
    splits = splits_of(tiles, triton.cdiv(inputs, at_once))
    y, parts = results(x, outputs, splits)
    _int8_kernel[(tiles, splits)](
        *(x, values, scales, parts, rows, outputs, inputs, x.stride(0)),
        ROWS=padded(rows),
        OUTPUTS=tile,
        INPUTS=at_once,
        SPLITS=splits,
        STAGES=stages,
    )
    return added(parts, y, splits)


def padded(rows: int) -> int:
    """Return how many rows a product of matrices has for so many."""
    return max(1 << (rows - 1).bit_length(), 16)


def splits_of(tiles: int, steps: int) -> int:
    """Return how many programs share an output's inputs."""
    return max(1, min(_PROGRAMS // tiles, _MOST_SPLITS, steps))


def results(x: Tensor, outputs: int, splits: int) -> tuple[Tensor, Tensor]:
    """Return the result, and where programs write: there, or beside each other in fp32."""
    y = x.new_empty(len(x), outputs)
    return y, x.new_empty(splits, len(x), outputs, dtype=torch.float32) if splits > 1 else y


def added(parts: Tensor, y: Tensor, splits: int) -> Tensor:
    """Return the result, of what the splits have found."""
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
    STAGES: tl.constexpr,
):  # fmt: skip
    """Weights are the left side of the product: rows are few, and there shall be many of those."""
    split, rows = tl.program_id(1), tl.arange(0, ROWS)
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    there = columns < outputs
    total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    own = tl.cdiv(tl.cdiv(inputs, SPLITS), INPUTS) * INPUTS
    stop = tl.minimum(inputs, (split + 1) * own)
    for start in tl.range(split * own, stop, INPUTS, num_stages=STAGES):
        places = start + tl.arange(0, INPUTS)
        inside = places < inputs
        weights = tl.load(
            values + columns[:, None].to(tl.int64) * inputs + places[None, :],
            mask=there[:, None] & inside[None, :],
            other=0,
        )
        numbers = tl.load(
            x + rows[None, :] * x_stride + places[:, None],
            mask=(rows < num_rows)[None, :] & inside[:, None],
            other=0.0,
        )
        weights = weights.to(tl.float32).to(numbers.dtype)
        total = tl.dot(weights, numbers, total, input_precision="ieee")
    total *= tl.load(scales + columns, mask=there, other=0.0).to(tl.float32)[:, None]
    place = parts + (split * num_rows + rows)[None, :].to(tl.int64) * outputs + columns[:, None]
    tl.store(place, total, mask=there[:, None] & (rows < num_rows)[None, :])


@triton.jit
def _add_kernel(parts, y, size, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts + split * size.to(tl.int64) + places, mask=inside, other=0.0)
    tl.store(y + places, total, mask=inside)
