"""One row times a matrix, with what precedes the product and what is added to it, in one kernel.

A program reads a few of the matrix's rows as they lie and keeps a sum for each place of a tile, so
that nothing is added up between threads before the end. The norm's inverse is found on the way: it
is a factor of the whole row. What an adapter adds is added by the same program; a kernel before
makes the product with its A.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.nvidia.grouped_kernels import by_row, group_of, groups_block, numbers_at

# Outputs and inputs of a tile, and how many tiles are on their way: on an H200 such programs read
# 2.9 to 3.9 TB/s of Qwen3-8B's matrices, cuBLAS 2.4 to 3.9.
_OUTPUTS, _INPUTS, _STAGES = 8, 512, 3


def row_linear(
    x: Tensor,
    weight: Tensor,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    pair: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """See `ops.fused_linear`; of a single row."""
    outputs, inputs = weight.shape
    y = x.new_empty(1, outputs)
    low, b, ends = None, None, None
    if pair is not None:
        a, b, ends = pair
        low = by_row(x, a, ends, norm, eps, gated)
    ranks, groups = (0, 0) if b is None else (b.shape[1], b.shape[0])
    _row_kernel[(triton.cdiv(outputs, _OUTPUTS),)](
        *(x, weight, norm, residual, low, b, ends, y, outputs, inputs, ranks, groups, eps),
        GATED=gated,
        GROUPS_BLOCK=groups_block(groups),
        RANKS_BLOCK=triton.next_power_of_2(max(ranks, 1)),
        OUTPUTS=_OUTPUTS,
        INPUTS=min(_INPUTS, triton.next_power_of_2(inputs)),
        STAGES=_STAGES,
    )
    return y


@triton.jit(do_not_specialize=["groups"])
def _row_kernel(
    x, weight, norm, residual, low, b, ends, y, outputs, inputs, ranks, groups, eps,
    GATED: tl.constexpr, GROUPS_BLOCK: tl.constexpr, RANKS_BLOCK: tl.constexpr,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    there = columns < outputs
    own = weight + columns[:, None].to(tl.int64) * inputs
    total = tl.zeros((OUTPUTS, INPUTS), dtype=tl.float32)
    squares = tl.zeros((INPUTS,), dtype=tl.float32)
    for first in tl.range(0, inputs, INPUTS, num_stages=STAGES):
        places = first + tl.arange(0, INPUTS)
        inside = places < inputs
        # Weights are read once a step: what else the cache holds shall stay.
        weights = tl.load(
            own + places[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        numbers = numbers_at(x, places, inside, inputs, GATED)
        if norm is not None:
            squares += numbers * numbers
            numbers *= tl.load(norm + places, mask=inside, other=0.0).to(tl.float32)
        total += numbers[None, :] * weights.to(tl.float32)
    found = tl.sum(total, axis=1)
    if norm is not None:
        found *= tl.rsqrt(tl.sum(squares, axis=0) / inputs + eps)
    if low is not None:
        rank = tl.arange(0, RANKS_BLOCK)
        matrix = b + group_of(0, ends, groups, GROUPS_BLOCK) * ranks * outputs
        is_rank = rank < ranks
        some = tl.load(
            matrix + rank[:, None] * outputs + columns[None, :],
            mask=is_rank[:, None] & there[None, :],
            other=0.0,
        ).to(tl.float32)
        found += tl.sum(
            tl.load(low + rank, mask=is_rank, other=0.0).to(tl.float32)[:, None] * some, axis=0
        )
    if residual is not None:
        found += tl.load(residual + columns, mask=there, other=0.0).to(tl.float32)
    tl.store(y + columns, found, mask=there)
