"""Products of experts' rows with their matrices in int8 and int4, read as they are stored.

As `grouped_kernels.py` finds a block of rows, which reads its expert's weights; experts without
rows are not read. A program holds a block and some outputs. A row's sum has the same order beside
any others.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.nvidia.frozen.few_bits_kernels import (
    added_product,
    bits_of,
    factors_of,
    most_outputs,
)
from danlu.ops.nvidia.grouped_kernels import block_of

# Inputs of a tile.
_INPUTS = 256
# Rows of a block, the most outputs of a tile, warps and tiles that are on their way: where most
# experts have one row, and where they have many.
_FEW, _MANY = (16, 32, 2, 3), (64, 64, 4, 2)


def expert_linear(x: Tensor, packed: Tensor, scales: Tensor, ends: Tensor) -> Tensor:
    """Multiply rows x [R, in], with words of all experts' outputs [E * out, ...] -> [R, out]."""
    bits, (outputs, groups, _words) = bits_of(scales), packed.shape
    (rows, tile, warps, stages), blocks = blocks_of(len(x), len(ends))
    tile = min(tile, most_outputs())
    y = x.new_empty(len(x), outputs // len(ends))
    _expert_kernel[(blocks, triton.cdiv(y.shape[1], tile))](
        *(x, packed, factors_of(scales), ends, y, x.stride(0), x.shape[1], groups, y.shape[1]),
        EXPERTS=len(ends),
        EXPERTS_BLOCK=triton.next_power_of_2(len(ends)),
        BITS=bits,
        ROWS=rows,
        OUTPUTS=tile,
        GROUPS=_INPUTS * bits // 128,
        STAGES=stages,
        num_warps=warps,
    )
    return y


def blocks_of(rows: int, experts: int) -> tuple[tuple[int, int, int, int], int]:
    """Return the tile of a block, and how many blocks there can be."""
    tile = _FEW if rows <= _FEW[0] * experts else _MANY
    # Each expert may leave a block that is not full; none has fewer rows than one.
    return tile, min(rows, triton.cdiv(rows, tile[0]) + experts - 1)


@triton.jit
def _expert_kernel(
    x, packed, factors, ends, y, x_stride, inputs, groups, outputs,
    EXPERTS: tl.constexpr, EXPERTS_BLOCK: tl.constexpr, BITS: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    expert, start, stop = block_of(tl.program_id(0), ends, EXPERTS, EXPERTS_BLOCK, ROWS)
    if expert >= EXPERTS:
        return
    rows = (start + tl.arange(0, ROWS)).to(tl.int64)[None, :]
    columns = (tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS))[:, None]
    is_row, is_column = rows < stop, columns < outputs
    of_matrix = expert.to(tl.int64) * outputs + columns
    total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    for first in tl.range(0, groups, GROUPS, num_stages=STAGES):
        total = added_product(
            total, x + rows * x_stride, is_row, inputs,
            packed, factors, of_matrix, is_column, first, groups,
            BITS, OUTPUTS, GROUPS, 1,
        )  # fmt: skip
    if BITS == 8:
        total *= tl.load(factors + of_matrix, mask=is_column, other=0.0).to(tl.float32)
    tl.store(y + rows * outputs + columns, total, mask=is_column & is_row)
