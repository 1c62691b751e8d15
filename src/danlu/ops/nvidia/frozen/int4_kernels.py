"""int4 weights as words: eight levels in 32 bits, a group of 32 inputs in four words side by side.

Bits 4 i to 4 i + 3 of word j of a group are its input 4 i + j. So a thread that loads 16 bytes has
a whole group, which is added up without its neighbours. A level is put into the upper bits of a
fraction, which makes it the float 1 + q / 16 by one shift and one logical operation; what the 1
adds is taken off for the whole group, whose inputs' sum is needed anyway:
sum x ((q - 8) s + z) = (16 sum x (1 + q / 16) - 24 sum x) s + z sum x.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.nvidia.frozen.few_bits_kernels import added, padded, results, splits_of

# Outputs and groups of a tile: of one row, and of several, which are one product of matrices. On an
# H200 one row took 86 us for Qwen3-8B's four projections so, 178 as a CPU has them, 105 in bf16.
_ROW_TILE, _TILE = (16, 32), (64, 8)
_FLOATS_TILE = (16, 32)


def linear(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """Multiply a few rows x [rows, in] -> [rows, out]."""
    rows, (outputs, groups, _words) = len(x), packed.shape
    if rows == 1:
        tile, at_once = _ROW_TILE
        y = x.new_empty(1, outputs)
        _row_kernel[(triton.cdiv(outputs, tile),)](
            *(x, packed, scales_and_zeros, y, outputs, groups),
            OUTPUTS=tile,
            GROUPS=at_once,
            STAGES=3,
        )
        return y
    tile, at_once = _TILE
    tiles = triton.cdiv(outputs, tile)
    splits = splits_of(tiles, triton.cdiv(groups, at_once))
    y, parts = results(x, outputs, splits)
    _rows_kernel[(tiles, splits)](
        *(x, packed, scales_and_zeros, parts, rows, outputs, groups, x.stride(0)),
        ROWS=padded(rows),
        OUTPUTS=tile,
        GROUPS=at_once,
        SPLITS=splits,
        STAGES=3 if rows <= 16 else 2,  # what a multiprocessor has of shared memory
    )
    return added(parts, y, splits)


def floats(packed: Tensor, scales_and_zeros: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights [out, in]."""
    outputs, groups, _words = packed.shape
    weight = torch.empty(outputs, groups * 32, dtype=dtype, device=packed.device)
    tile, at_once = _FLOATS_TILE
    grid = triton.cdiv(outputs, tile), triton.cdiv(groups, at_once)
    _floats_kernel[grid](
        *(packed, scales_and_zeros, weight, outputs, groups), OUTPUTS=tile, GROUPS=at_once
    )
    return weight


@triton.jit
def int4_tile(packed, scales_and_zeros, columns, group, outputs, groups):
    """Load a tile: words [columns, groups, 4], scales and zeros [columns, groups]."""
    at = columns[:, None].to(tl.int64) * groups + group[None, :]
    inside = (columns < outputs)[:, None] & (group < groups)[None, :]
    bits = tl.load(
        packed + at[:, :, None] * 4 + tl.arange(0, 4)[None, None, :],
        mask=inside[:, :, None],
        other=0,
        eviction_policy="evict_first",
    )
    scales = tl.load(scales_and_zeros + 2 * at, mask=inside, other=0.0).to(tl.float32)
    zeros = tl.load(scales_and_zeros + 2 * at + 1, mask=inside, other=0.0).to(tl.float32)
    return bits, scales, zeros


@triton.jit
def shifted(bits, PLACE: tl.constexpr):
    """1 + q / 16 for the levels q at a place, 0 to 7, of words."""
    level = bits << (19 - 4 * PLACE) if PLACE < 5 else bits >> (4 * PLACE - 19)
    return ((level & 0x00780000) | 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def _row_kernel(
    x, packed, scales_and_zeros, y, outputs, groups,
    OUTPUTS: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    columns, words = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.arange(0, 4)
    total = tl.zeros((OUTPUTS, GROUPS), dtype=tl.float32)
    for first in tl.range(0, groups, GROUPS, num_stages=STAGES):
        group = first + tl.arange(0, GROUPS)
        bits, scales, zeros = int4_tile(packed, scales_and_zeros, columns, group, outputs, groups)
        found = tl.zeros((OUTPUTS, GROUPS, 4), dtype=tl.float32)
        sums = tl.zeros((1, GROUPS, 4), dtype=tl.float32)
        for place in tl.static_range(8):
            numbers = tl.load(
                x + (group * 32 + 4 * place)[None, :, None] + words[None, None, :],
                mask=(group < groups)[None, :, None],
                other=0.0,
            ).to(tl.float32)
            sums += numbers
            found += numbers * shifted(bits, place)
        of_groups = tl.sum(sums, axis=2)
        total += (16 * tl.sum(found, axis=2) - 24 * of_groups) * scales + of_groups * zeros
    tl.store(y + columns, tl.sum(total, axis=1), mask=columns < outputs)


@triton.jit(do_not_specialize=["num_rows"])
def _rows_kernel(
    x, packed, scales_and_zeros, parts, num_rows, outputs, groups, x_stride,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr, SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Inputs are multiplied in the order in which the words have them, and rows are read so."""
    split, rows = tl.program_id(1), tl.arange(0, ROWS)
    columns, flat = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.arange(0, GROUPS * 4)
    total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    own = tl.cdiv(tl.cdiv(groups, SPLITS), GROUPS) * GROUPS
    stop = tl.minimum(groups, (split + 1) * own)
    for first in tl.range(split * own, stop, GROUPS, num_stages=STAGES):
        group = first + tl.arange(0, GROUPS)
        bits, scales, zeros = int4_tile(packed, scales_and_zeros, columns, group, outputs, groups)
        scales, zeros = 16 * scales[:, :, None], zeros[:, :, None] - 24 * scales[:, :, None]
        inputs = (first + flat // 4) * 32 + flat % 4
        for place in tl.static_range(8):
            numbers = tl.load(
                x + rows[None, :] * x_stride + (inputs + 4 * place)[:, None],
                mask=(rows < num_rows)[None, :] & (inputs < groups * 32)[:, None],
                other=0.0,
            )
            weights = (shifted(bits, place) * scales + zeros).to(numbers.dtype)
            weights = tl.reshape(weights, (OUTPUTS, GROUPS * 4))
            total = tl.dot(weights, numbers, total, input_precision="ieee")
    there = parts + (split * num_rows + rows)[None, :].to(tl.int64) * outputs + columns[:, None]
    tl.store(there, total, mask=(columns < outputs)[:, None] & (rows < num_rows)[None, :])


@triton.jit
def _floats_kernel(
    packed, scales_and_zeros, weight, outputs, groups,
    OUTPUTS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    bits, scales, zeros = int4_tile(packed, scales_and_zeros, columns, group, outputs, groups)
    at = columns[:, None].to(tl.int64) * groups + group[None, :]
    there = weight + at[:, :, None] * 32 + tl.arange(0, 4)[None, None, :]
    inside = (columns < outputs)[:, None] & (group < groups)[None, :]
    for place in tl.static_range(8):
        level = (bits >> (4 * place)) & 15
        numbers = (level.to(tl.float32) - 8) * scales[:, :, None] + zeros[:, :, None]
        tl.store(there + 4 * place, numbers, mask=inside[:, :, None])
