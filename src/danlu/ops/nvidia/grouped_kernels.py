"""Products of groups of rows, each with its own matrix, in one kernel that reads where groups end.

How many programs there are follows from shapes: as many blocks of rows as there can be whichever
rows belong together, for each group may leave one that is not full. A program finds its block by
counting those of all groups before; who finds none ends at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of a block: where few are multiplied, and where many are.
_FEW_ROWS, _ROWS = 16, 64


def grouped_linear(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """See `ops.grouped_linear`."""
    num_rows, (groups, inputs, outputs) = len(x), matrices.shape
    y = x.new_empty(num_rows, outputs)
    if not num_rows:
        return y
    rows = _FEW_ROWS if num_rows <= _ROWS else _ROWS
    # Many inputs and few outputs are an adapter's A. One program reads them all, much at a time: a
    # second kernel to add up what several have read would take longer.
    widest = 128 if x.dtype == torch.float32 else 256
    columns, at_once = (16, widest) if inputs > widest else (64, 64)
    at_once = min(max(triton.next_power_of_2(inputs), 16), at_once)
    blocks = triton.cdiv(num_rows, rows) + groups - 1
    _grouped_kernel[(blocks, triton.cdiv(outputs, columns))](
        *(x, matrices, ends, y, x.stride(0), inputs, outputs),
        GROUPS=groups,
        GROUPS_BLOCK=triton.next_power_of_2(groups),
        ROWS=rows,
        COLUMNS=columns,
        INPUTS=at_once,
        num_stages=3 if rows == _FEW_ROWS else 2,
    )
    return y


@triton.jit
def _grouped_kernel(
    x, matrices, ends, y, x_stride, inputs, outputs,
    GROUPS: tl.constexpr, GROUPS_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    numbers = tl.arange(0, GROUPS_BLOCK)
    is_group = numbers < GROUPS
    stops = tl.load(ends + numbers, mask=is_group, other=0)
    starts = tl.load(ends + numbers - 1, mask=is_group & (numbers > 0), other=0)
    blocks = tl.cdiv(stops - starts, ROWS)
    behind = tl.cumsum(tl.where(is_group, blocks, 0), axis=0)
    group = tl.sum((is_group & (behind <= block)).to(tl.int32), axis=0)
    if group >= GROUPS:
        return
    mine = numbers == group
    start = tl.sum(tl.where(mine, starts + (block - behind + blocks) * ROWS, 0), axis=0)
    stop = tl.sum(tl.where(mine, stops, 0), axis=0)
    rows = start + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < stop, columns < outputs
    matrix = matrices + group.to(tl.int64) * inputs * outputs
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
            matrix + places[:, None].to(tl.int64) * outputs + columns[None, :],
            mask=inside[:, None] & is_column[None, :],
            other=0.0,
        )
        total = tl.dot(some, weights, total, input_precision="ieee")
    there = y + rows[:, None] * outputs + columns[None, :]
    tl.store(there, total, mask=is_row[:, None] & is_column[None, :])
