"""Products of experts' rows with their matrices in int8 and int4, read as they are stored.

As `grouped_kernels.py` finds a block of rows, which reads its expert's weights; experts without
rows are not read. A program holds a block and some outputs. The tile of outputs and inputs is the
same for any number of rows, so a row's sum has the same order beside any others.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.nvidia.frozen.int4_kernels import int4_tile, shifted
from danlu.ops.nvidia.grouped_kernels import block_of

# Rows of a block: where most experts have one, and where they have many.
_FEW_ROWS, _ROWS = 16, 64
# Outputs, inputs, and groups of 32 inputs of a tile.
_OUTPUTS, _INPUTS, _GROUPS = 64, 128, 8


def int8_experts(x: Tensor, values: Tensor, scales: Tensor, ends: Tensor) -> Tensor:
    """Multiply rows x [R, in], with values [E * out, in] -> [R, out]."""
    rows, grid, y = _blocks(x, len(values), ends)
    _int8_kernel[grid](
        *(x, values, scales, ends, y, x.stride(0), x.shape[1], y.shape[1]),
        EXPERTS=len(ends),
        EXPERTS_BLOCK=triton.next_power_of_2(len(ends)),
        ROWS=rows,
        OUTPUTS=_OUTPUTS,
        INPUTS=_INPUTS,
        STAGES=_stages(x, rows),
    )
    return y


def int4_experts(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, ends: Tensor) -> Tensor:
    """Multiply rows x [R, in], with words as `int4_words.py` has them -> [R, out]."""
    rows, grid, y = _blocks(x, len(packed), ends)
    _int4_kernel[grid](
        *(x, packed, scales_and_zeros, ends, y, x.stride(0), packed.shape[1], y.shape[1]),
        EXPERTS=len(ends),
        EXPERTS_BLOCK=triton.next_power_of_2(len(ends)),
        ROWS=rows,
        OUTPUTS=_OUTPUTS,
        GROUPS=_GROUPS,
        STAGES=_stages(x, rows),
    )
    return y


def _blocks(x: Tensor, outputs: int, ends: Tensor) -> tuple[int, tuple[int, int], Tensor]:
    """Return the rows of a block, how many programs there are, and the result's memory."""
    count, experts = len(x), len(ends)
    outputs //= experts
    rows = _FEW_ROWS if count <= _FEW_ROWS * experts else _ROWS
    # Each expert may leave a block that is not full; none has fewer rows than one.
    blocks = min(count, triton.cdiv(count, rows) + experts - 1)
    return rows, (blocks, triton.cdiv(outputs, _OUTPUTS)), x.new_empty(count, outputs)


def _stages(x: Tensor, rows: int) -> int:
    """Return how many tiles are on their way: what a multiprocessor has of shared memory."""
    return 3 if x.element_size() == 2 and rows == _FEW_ROWS else 2


@triton.jit
def _int8_kernel(
    x, values, scales, ends, y, x_stride, inputs, outputs,
    EXPERTS: tl.constexpr, EXPERTS_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Whole numbers are multiplied as such, which is exact in 16 bits, and scaled in fp32."""
    expert, start, stop = block_of(tl.program_id(0), ends, EXPERTS, EXPERTS_BLOCK, ROWS)
    if expert >= EXPERTS:
        return
    rows = (start + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row, is_column = rows < stop, columns < outputs
    of_matrix = expert.to(tl.int64) * outputs + columns
    total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    for first in tl.range(0, inputs, INPUTS, num_stages=STAGES):
        places = first + tl.arange(0, INPUTS)
        inside = places < inputs
        weights = tl.load(
            values + of_matrix[:, None] * inputs + places[None, :],
            mask=is_column[:, None] & inside[None, :],
            other=0,
        )
        numbers = tl.load(
            x + rows[None, :] * x_stride + places[:, None],
            mask=is_row[None, :] & inside[:, None],
            other=0.0,
        )
        weights = weights.to(tl.float32).to(numbers.dtype)
        total = tl.dot(weights, numbers, total, input_precision="ieee")
    total *= tl.load(scales + of_matrix, mask=is_column, other=0.0).to(tl.float32)[:, None]
    there = y + rows[None, :] * outputs + columns[:, None]
    tl.store(there, total, mask=is_column[:, None] & is_row[None, :])


@triton.jit
def _int4_kernel(
    x, packed, scales_and_zeros, ends, y, x_stride, groups, outputs,
    EXPERTS: tl.constexpr, EXPERTS_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Inputs are multiplied in the order in which the words have them, and rows are read so."""
    expert, start, stop = block_of(tl.program_id(0), ends, EXPERTS, EXPERTS_BLOCK, ROWS)
    if expert >= EXPERTS:
        return
    rows = (start + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row, is_column = rows < stop, columns < outputs
    of_matrix = expert * outputs + columns
    behind = expert * outputs + outputs
    flat = tl.arange(0, GROUPS * 4)
    total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    for first in tl.range(0, groups, GROUPS, num_stages=STAGES):
        group = first + tl.arange(0, GROUPS)
        bits, scales, zeros = int4_tile(packed, scales_and_zeros, of_matrix, group, behind, groups)
        scales, zeros = 16 * scales[:, :, None], zeros[:, :, None] - 24 * scales[:, :, None]
        inputs = (first + flat // 4) * 32 + flat % 4
        for place in tl.static_range(8):
            numbers = tl.load(
                x + rows[None, :] * x_stride + (inputs + 4 * place)[:, None],
                mask=is_row[None, :] & (inputs < groups * 32)[:, None],
                other=0.0,
            )
            weights = (shifted(bits, place) * scales + zeros).to(numbers.dtype)
            weights = tl.reshape(weights, (OUTPUTS, GROUPS * 4))
            total = tl.dot(weights, numbers, total, input_precision="ieee")
    there = y + rows[None, :] * outputs + columns[:, None]
    tl.store(there, total, mask=is_column[:, None] & is_row[None, :])
