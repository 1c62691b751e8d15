"""Products of few rows with weights in int8 and int4, read as `few_bits_words.py` stores them.

Few rows wait for the weights' bytes, if making floats of them takes no longer: a multiprocessor
starts four instructions for 32 numbers a cycle, and an H200's memory brings 4 bits of a weight in
the time of 4 of them. So a pair of weights becomes two 16-bit floats in one register, of which
products of matrices take their operands: in int4 by 2 instructions a weight, in int8 by 1.75.

Weights are the left side of a product, for rows are few. A program has all rows and some outputs.
Of few rows each of its warps multiplies a share of the inputs, and what they find is added at the
end. Of more rows the inputs are split between programs where outputs are too few to fill a card,
and a second kernel adds what they found, always in the same order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.nvidia.late_import import has_tensor_memory

# The most rows that are few, and for them: outputs of a program, and inputs of a warp's tile by the
# rows of a product: a program has 99 KiB of shared memory on cards for desktops.
_FEW_ROWS, _FEW_OUTPUTS, _WARP_INPUTS = 16, 32, {8: 128, 16: 64}
# Warps that keep a large card busy, and the most of a program, each with inputs of its own.
_WARPS, _MOST_WARPS = 1536, 8
# For more rows: outputs and inputs of a program's tile, programs that fill a large card, and the
# most that share an output.
_OUTPUTS, _INPUTS, _PROGRAMS, _MOST_SPLITS = 64, 256, 512, 16
# Outputs where a sum of 64 would not stay in registers: places of a group are added to it in turn.
_OUTPUTS_IN_REGISTERS = 32
_FLOATS_TILE = (16, 32)


def linear(x: Tensor, packed: Tensor, scales: Tensor, residual: Tensor | None = None) -> Tensor:
    """Multiply a few rows x [rows, in] of 16 bits -> [rows, out]. residual: as those, added.

    The scales have x's dtype.
    """
    residual = None if residual is None else residual.contiguous()
    (rows, inputs), (outputs, groups, _words) = x.shape, packed.shape
    bits = bits_of(scales)
    is_few, padded = rows <= _FEW_ROWS, max(8, triton.next_power_of_2(rows))
    tile, at_once = (_FEW_OUTPUTS, _WARP_INPUTS[padded]) if is_few else (most_outputs(), _INPUTS)
    tiles, steps = triton.cdiv(outputs, tile), triton.cdiv(inputs, at_once)
    warps = warps_of(tiles) if is_few else 4
    splits = 1 if is_few else splits_of(tiles, steps)
    y = x.new_empty(rows, outputs)
    parts = x.new_empty(splits, rows, outputs, dtype=torch.float32) if splits > 1 else y
    _rows_kernel[(tiles, splits)](
        *(x, packed, factors_of(scales), residual if splits == 1 else None, parts),
        *(rows, inputs, outputs, groups, x.stride(0), splits),
        BITS=bits,
        ROWS=padded,
        OUTPUTS=tile,
        GROUPS=at_once * bits // 128,
        SHARES=warps if is_few else 1,
        STAGES=3 if is_few else 2,
        num_warps=warps,
    )
    if splits > 1:
        block = 1024
        grid = (triton.cdiv(y.numel(), block),)
        _add_kernel[grid](parts, residual, y, y.numel(), splits, BLOCK=block)
    return y


def most_outputs() -> int:
    """Return how many outputs a program of more than few rows has at most."""
    return _OUTPUTS_IN_REGISTERS if has_tensor_memory() else _OUTPUTS


def warps_of(tiles: int) -> int:
    """Return how many warps a program of few rows has: 2, 4 or 8."""
    wanted = max(2, min(_WARPS // tiles, _MOST_WARPS))
    return 1 << (wanted.bit_length() - 1)


def splits_of(tiles: int, steps: int) -> int:
    """Return how many programs share an output's inputs where rows are more."""
    return max(1, min(_PROGRAMS // tiles, _MOST_SPLITS, steps))


def bits_of(scales: Tensor) -> int:
    """Return the bits of a weight: in int8 an output has one scale."""
    return 8 if scales.dim() == 1 else 4


def factors_of(scales: Tensor) -> Tensor:
    """Return what kernels load: in int4 a group's scale and zero are one word."""
    return scales if scales.dim() == 1 else scales.view(torch.int32)


def floats(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights [out, in], filler behind the inputs included."""
    outputs, groups, _words = packed.shape
    bits = bits_of(scales)
    weight = torch.empty(outputs, groups * 128 // bits, dtype=dtype, device=packed.device)
    tile, at_once = _FLOATS_TILE
    grid = triton.cdiv(outputs, tile), triton.cdiv(groups, at_once)
    _floats_kernel[grid](
        *(packed, scales, weight, outputs, groups), BITS=bits, OUTPUTS=tile, GROUPS=at_once
    )
    return weight


def _asm(make: str, kind: str, **numbers: int) -> tl.constexpr:
    """Return instructions that make a pair of floats, $0 and $1, of the two halves of word $2.

    The lowest bits of a float M = 128 in bf16, 1,024 in fp16, count ones: with some of a weight's
    bits there it is M and those.
    """
    halves = {name: f"0x{number:04x}{number:04x}" for name, number in numbers.items()}
    text = make.format(kind=kind, **halves)
    return tl.constexpr(f"{{ .reg .b32 t, u, v; {text} mov.b32 {{$0, $1}}, t; }}")


# M + q, minus M + 8, times the scale, plus the zero, rounded once; both factors in word $3.
_INT4 = """
    lop3.b32 t, $2, 0x000f000f, {magic}, 0xea;
    mov.b32 u, {one};
    mov.b32 v, {minus};
    fma.rn.{kind} t, t, u, v;
    prmt.b32 u, $3, $3, 0x1010;
    prmt.b32 v, $3, $3, 0x3232;
    fma.rn.{kind} t, t, u, v;
"""
# Two's complement: M and the lower seven bits, minus M and the eighth.
_INT8 = """
    lop3.b32 t, $2, 0x007f007f, {magic}, 0xea;
    lop3.b32 u, $2, 0x00800080, {magic}, 0xea;
    mov.b32 v, {minus_one};
    fma.rn.{kind} t, u, v, t;
"""
_INT4_BF16 = _asm(_INT4, "bf16x2", magic=0x4300, one=0x3F80, minus=0xC308)
_INT4_FP16 = _asm(_INT4, "f16x2", magic=0x6400, one=0x3C00, minus=0xE408)
_INT8_BF16 = _asm(_INT8, "bf16x2", magic=0x4300, minus_one=0xBF80)
_INT8_FP16 = _asm(_INT8, "f16x2", magic=0x6400, minus_one=0xBC00)


@triton.jit
def _pairs(words, factors, BITS: tl.constexpr, dtype: tl.constexpr):
    """The bits of what lies lowest in words, as floats [..., 2]; factors: those of int4."""
    if BITS == 4:
        low, high = tl.inline_asm_elementwise(
            _INT4_BF16 if dtype == tl.bfloat16 else _INT4_FP16,
            *("=h,=h,r,r", [words, factors], (tl.int16, tl.int16), True, 1),
        )
    else:
        low, high = tl.inline_asm_elementwise(
            _INT8_BF16 if dtype == tl.bfloat16 else _INT8_FP16,
            *("=h,=h,r", [words], (tl.int16, tl.int16), True, 1),
        )
    return tl.join(low, high)


@triton.jit
def words_at(packed, at, inside):
    """Load groups' words [..., 4], each once a step: what else is cached shall stay."""
    return tl.load(
        packed + tl.expand_dims(at, -1) * 4 + tl.arange(0, 4),
        mask=tl.expand_dims(inside, -1),
        other=0,
        eviction_policy="evict_first",
    )


@triton.jit
def added_product(
    total, x_rows, is_row, inputs, packed, factors, columns, is_column, start, groups,
    BITS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """Add to total [OUTPUTS, rows] the product with a tile's groups, from `start` on.

    x_rows: where rows begin, [1, rows]. columns: places of outputs in the matrix, int64 [OUTPUTS,
    1]. Shares of the inputs are multiplied beside each other where total is [SHARES, OUTPUTS,
    rows]; start is then [SHARES, 1, 1]. int8's scales are left to the caller.
    """
    group = start + tl.arange(0, GROUPS)[None, :]
    at = columns * groups + group
    inside = is_column & (group < groups)
    words, of_group = words_at(packed, at, inside), 0
    if BITS == 4:
        of_group = tl.expand_dims(tl.load(factors + at, mask=inside, other=0), -1)
        words, of_group = tl.broadcast(words, of_group)
    flat = tl.arange(0, GROUPS * 8)[:, None]
    for place in tl.static_range(16 // BITS):
        numbers_at = (start + flat // 8) * (128 // BITS) + 8 * place + flat % 8
        numbers = tl.load(x_rows + numbers_at, mask=is_row & (numbers_at < inputs), other=0.0)
        weights = _pairs(words >> BITS * place, of_group, BITS, numbers.dtype)
        if SHARES == 1:
            weights = tl.reshape(weights, (OUTPUTS, GROUPS * 8))
        else:
            weights = tl.reshape(weights, (SHARES, OUTPUTS, GROUPS * 8))
        # Floats at last: for a B200 Triton 3.6 compiles no product of what was reshaped last.
        total = tl.dot(weights.to(numbers.dtype, bitcast=True), numbers, total)
    return total


# One kernel for any of these numbers, where Triton would compile others for 1 and multiples of 16.
@triton.jit(do_not_specialize=["num_rows", "splits"])
def _rows_kernel(
    x, packed, factors, residual, parts, num_rows, inputs, outputs, groups, x_stride, splits,
    BITS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr,
    SHARES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    split, rows = tl.program_id(1), tl.arange(0, ROWS)[None, :]
    columns = (tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS))[:, None]
    is_row, is_column = rows < num_rows, columns < outputs
    own = tl.cdiv(tl.cdiv(groups, splits * SHARES), GROUPS) * GROUPS
    if SHARES == 1:
        start = split * own
        total = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    else:
        start = tl.arange(0, SHARES)[:, None, None] * own
        total = tl.zeros((SHARES, OUTPUTS, ROWS), dtype=tl.float32)
    for step in tl.range(0, own, GROUPS, num_stages=STAGES):
        total = added_product(
            total, x + rows * x_stride, is_row, inputs,
            packed, factors, columns.to(tl.int64), is_column, start + step, groups,
            BITS, OUTPUTS, GROUPS, SHARES,
        )  # fmt: skip
    if SHARES > 1:
        total = tl.sum(total, axis=0)
    inside = is_column & is_row
    if BITS == 8:
        total *= tl.load(factors + columns, mask=is_column, other=0.0).to(tl.float32)
    if residual is not None:
        there = rows.to(tl.int64) * outputs + columns
        total += tl.load(residual + there, mask=inside, other=0.0).to(tl.float32)
    place = parts + (split * num_rows + rows).to(tl.int64) * outputs + columns
    tl.store(place, total, mask=inside)


@triton.jit(do_not_specialize=["splits"])
def _add_kernel(parts, residual, y, size, splits, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in range(splits):
        total += tl.load(parts + split * size.to(tl.int64) + places, mask=inside, other=0.0)
    if residual is not None:
        total += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + places, total, mask=inside)


@triton.jit
def _floats_kernel(
    packed, scales, weight, outputs, groups,
    BITS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    inside = (columns < outputs)[:, None] & (group < groups)[None, :]
    at = columns[:, None].to(tl.int64) * groups + group[None, :]
    words = words_at(packed, at, inside)
    if BITS == 4:
        scale = tl.load(scales + 2 * at, mask=inside, other=0.0).to(tl.float32)[:, :, None]
        zero = tl.load(scales + 2 * at + 1, mask=inside, other=0.0).to(tl.float32)[:, :, None]
        zero -= 8 * scale
    else:
        scale = tl.load(scales + columns, mask=columns < outputs, other=0.0).to(tl.float32)
        scale, zero = scale[:, None, None], 0.0
    pair = 2 * tl.arange(0, 4)[:, None] + tl.arange(0, 2)[None, :]
    there = weight + at[:, :, None, None] * (128 // BITS) + pair[None, None, :, :]
    for place in tl.static_range(16 // BITS):
        # To the top and down again: in int8 with the sign.
        low, high = words << 32 - BITS * (place + 1), words << 16 - BITS * (place + 1)
        if BITS == 4:
            low, high = (low >> 28) & 15, (high >> 28) & 15
        else:
            low, high = low >> 24, high >> 24
        both = tl.join(low.to(tl.float32) * scale + zero, high.to(tl.float32) * scale + zero)
        tl.store(there + 8 * place, both, mask=inside[:, :, None, None])
