"""Products of groups of rows, each with its own matrix, in one kernel that reads where groups end.

How many programs there are follows from shapes: as many blocks of rows as there can be whichever
rows belong together, for each group may leave one that is not full. A program finds its block by
counting those of all groups before; who finds none ends at once. How many groups there are is an
argument like any other: an adapter more must not make a server compile its kernels anew.

Many inputs and few outputs are an adapter's A: of few rows each is multiplied by programs of its
own, with numbers side by side instead of in a product of matrices, for those wait for each other.

Experts are multiplied by the same kernel where torch has none for the card.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of a block: where few are multiplied, and where many are.
_FEW_ROWS, _ROWS = 16, 64
# Groups that are few: more than a stack of adapters has places.
_FEW_GROUPS = 16
# The most outputs of an adapter's A.
_NARROW = 256
# Inputs that are many, and the tile of a program that multiplies one row with them.
_MANY_INPUTS, _COLUMNS, _INPUTS = 256, 8, 4096


def grouped_linear(
    x: Tensor, matrices: Tensor, ends: Tensor, total: Tensor | None = None
) -> Tensor:
    """See `ops.grouped_linear`."""
    num_rows, (groups, inputs, outputs) = len(x), matrices.shape
    y = x.new_empty(num_rows, outputs) if total is None else total
    if not num_rows:
        return y
    is_narrow = inputs > _MANY_INPUTS and outputs <= _NARROW and matrices.is_contiguous()
    if num_rows <= _ROWS and is_narrow and total is None:
        return by_row(x, matrices, ends)
    rows, columns, at_once, warps, stages = _tile_of(num_rows, matrices)
    # None has fewer rows than one.
    blocks = min(num_rows, triton.cdiv(num_rows, rows) + groups - 1)
    _grouped_kernel[(blocks, triton.cdiv(outputs, columns))](
        *(x, matrices, ends, y, x.stride(0), *matrices.stride(), inputs, outputs, groups),
        GROUPS_BLOCK=groups_block(groups),
        ROWS=rows,
        COLUMNS=columns,
        INPUTS=min(max(triton.next_power_of_2(inputs), 16), at_once),
        ADDS=total is not None,
        num_warps=warps,
        num_stages=stages,
    )
    return y


def _tile_of(num_rows: int, matrices: Tensor) -> tuple[int, int, int, int, int]:
    """Return rows, columns and inputs of a tile, warps, and how many tiles are on their way."""
    groups, inputs, outputs = matrices.shape
    is_fp32 = matrices.dtype == torch.float32
    if min(inputs, outputs) > _NARROW and num_rows > _ROWS * groups:  # experts in a training
        return 128, 128, 32 if is_fp32 else 64, 8, 2 if is_fp32 else 3
    rows = _FEW_ROWS if num_rows <= max(_ROWS, _FEW_ROWS * groups) else _ROWS
    stages = 3 if rows == _FEW_ROWS else 2
    widest = 128 if is_fp32 else 256
    if outputs <= _NARROW and inputs > widest:
        return rows, 16, widest, 4, stages
    return rows, 64, 64, 4, stages


def expert_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """See `ops.expert_linear`."""
    return grouped_linear(x, weight.view(len(ends), -1, x.shape[1]).transpose(1, 2), ends)


def expert_input_gradient(dy: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """See `ops.expert_input_gradient`."""
    return grouped_linear(dy, weight.view(len(ends), dy.shape[1], -1), ends)


def by_row(
    x: Tensor,
    matrices: Tensor,
    ends: Tensor,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
) -> Tensor:
    """As `ops.grouped_linear`, of few rows; norm, eps, gated: as `ops.fused_linear` has them.

    matrices: without gaps, an input's outputs side by side.
    """
    groups, inputs, outputs = matrices.shape
    y = x.new_empty(len(x), outputs)
    _row_kernel[(triton.cdiv(outputs, _COLUMNS), len(x))](
        *(x, matrices, ends, norm, y, x.stride(0), inputs, outputs, groups, eps),
        GROUPS_BLOCK=groups_block(groups),
        GATED=gated,
        COLUMNS=_COLUMNS,
        INPUTS=min(_INPUTS, triton.next_power_of_2(inputs)),
        num_warps=16,
    )
    return y


def groups_block(groups: int) -> int:
    """Return how many ends a program reads at once: the same for any few groups."""
    return max(_FEW_GROUPS, 1 << (groups - 1).bit_length())


@triton.jit(do_not_specialize=["groups"])
def _grouped_kernel(
    x, matrices, ends, y, x_stride, of_group, of_input, of_output, inputs, outputs, groups,
    GROUPS_BLOCK: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, INPUTS: tl.constexpr, ADDS: tl.constexpr,
):  # fmt: skip
    group, start, stop = block_of(tl.program_id(0), ends, groups, GROUPS_BLOCK, ROWS)
    if group >= groups:
        return
    rows = (start + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < stop, columns < outputs
    matrix = matrices + group.to(tl.int64) * of_group + columns.to(tl.int64)[None, :] * of_output
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, inputs, INPUTS):
        places = first + tl.arange(0, INPUTS)
        inside = places < inputs
        some = tl.load(
            x + rows[:, None] * x_stride + places[None, :],
            mask=is_row[:, None] & inside[None, :],
            other=0.0,
        )
        weights = tl.load(
            matrix + places.to(tl.int64)[:, None] * of_input,
            mask=inside[:, None] & is_column[None, :],
            other=0.0,
        )
        total = tl.dot(some, weights, total, input_precision="ieee")
    there = y + rows[:, None] * outputs + columns[None, :]
    inside = is_row[:, None] & is_column[None, :]
    if ADDS:
        total += tl.load(there, mask=inside, other=0.0).to(tl.float32)
    tl.store(there, total, mask=inside)


@triton.jit
def block_of(block, ends, groups, GROUPS_BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Find a block of rows: its group, its first row, and where the group ends; none: groups."""
    numbers = tl.arange(0, GROUPS_BLOCK)
    is_group = numbers < groups
    stops = tl.load(ends + numbers, mask=is_group, other=0)
    starts = tl.load(ends + numbers - 1, mask=is_group & (numbers > 0), other=0)
    blocks = tl.cdiv(stops - starts, ROWS)
    behind = tl.cumsum(tl.where(is_group, blocks, 0), axis=0)
    group = tl.sum((is_group & (behind <= block)).to(tl.int32), axis=0)
    mine = numbers == group
    start = tl.sum(tl.where(mine, starts + (block - behind + blocks) * ROWS, 0), axis=0)
    return group, start, tl.sum(tl.where(mine, stops, 0), axis=0)


@triton.jit
def group_of(row, ends, groups, GROUPS_BLOCK: tl.constexpr):
    """Find a row's group: as many as end before it."""
    numbers = tl.arange(0, GROUPS_BLOCK)
    stops = tl.load(ends + numbers, mask=numbers < groups, other=0)
    return tl.sum(((numbers < groups) & (stops <= row)).to(tl.int64), axis=0)


@triton.jit
def numbers_at(x, places, inside, inputs, GATED: tl.constexpr):
    """Load a row's inputs in fp32; GATED: those that swiglu makes of the row."""
    numbers = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        up = tl.load(x + inputs + places, mask=inside, other=0.0).to(tl.float32)
        numbers = numbers * tl.sigmoid(numbers) * up
    return numbers


@triton.jit(do_not_specialize=["groups"])
def _row_kernel(
    x, matrices, ends, norm, y, x_stride, inputs, outputs, groups, eps,
    GROUPS_BLOCK: tl.constexpr, GATED: tl.constexpr,
    COLUMNS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    matrix = matrices + group_of(row, ends, groups, GROUPS_BLOCK) * inputs * outputs
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < outputs
    x += row * x_stride
    total = tl.zeros((INPUTS, COLUMNS), dtype=tl.float32)
    squares = tl.zeros((INPUTS,), dtype=tl.float32)
    for first in range(0, inputs, INPUTS):
        places = first + tl.arange(0, INPUTS)
        inside = places < inputs
        weights = tl.load(
            matrix + places[:, None].to(tl.int64) * outputs + columns[None, :],
            mask=inside[:, None] & is_column[None, :],
            other=0.0,
        )
        numbers = numbers_at(x, places, inside, inputs, GATED)
        if norm is not None:
            squares += numbers * numbers
            numbers *= tl.load(norm + places, mask=inside, other=0.0).to(tl.float32)
        total += numbers[:, None] * weights.to(tl.float32)
    found = tl.sum(total, axis=0)
    if norm is not None:
        found *= tl.rsqrt(tl.sum(squares, axis=0) / inputs + eps)
    tl.store(y + row * outputs + columns, found, mask=is_column)
