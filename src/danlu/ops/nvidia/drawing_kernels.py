"""Choosing a token of each row in two kernels: each chunk's largest logits, then a draw from them.

Neither sorts. The least number that still belongs to the largest is found bit by bit, from the
first: as many counts as a number has bits, of numbers that stay in registers. What is found keeps
the order of ids, so that the draw only adds up. A row that takes the likeliest token needs none of
this, and finds its largest number at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.sampling.draw import MOST_DRAWN

_CHUNK = 4096
_WARPS = 8
# Bits that are 0 in every number of the dtype when it is written in fp32.
_ZERO_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}


def draw(logits: Tensor, asked: Tensor) -> Tensor:
    """See `ops.draw`."""
    rows, vocab = logits.shape
    chunk = min(_CHUNK, max(MOST_DRAWN, triton.next_power_of_2(vocab)))
    chunks = triton.cdiv(vocab, chunk)
    values = logits.new_empty(rows, chunks, MOST_DRAWN, dtype=torch.float32)
    ids = logits.new_empty(rows, chunks, MOST_DRAWN, dtype=torch.int32)
    faults = logits.new_empty(rows, chunks, dtype=torch.int32)
    chosen = logits.new_empty(2, rows, dtype=torch.int32)
    if not rows:
        return chosen
    zero_bits = _ZERO_BITS[logits.dtype]
    _largest_kernel[(rows, chunks)](
        *(logits, asked, values, ids, faults, logits.stride(0), asked.stride(0), vocab),
        ZERO_BITS=zero_bits,
        CHUNK=chunk,
        KEPT=MOST_DRAWN,
        num_warps=_WARPS,
    )
    _draw_kernel[(rows,)](
        *(asked, values, ids, faults, chosen, asked.stride(0), rows, chunks, vocab),
        ZERO_BITS=zero_bits,
        CHUNKS=triton.next_power_of_2(chunks),
        KEPT=MOST_DRAWN,
        num_warps=_WARPS,
    )
    return chosen


@triton.jit
def _ordered(x, ZERO_BITS: tl.constexpr):
    """Whole numbers in the order of x, of as many bits as x has."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.uint32, bitcast=True)  # -0 is 0
    return tl.where(x < 0.0, bits ^ 0xFFFFFFFF, bits | 0x80000000) >> ZERO_BITS


@triton.jit
def _largest_kernel(
    logits, asked, values, ids, faults, stride, asked_stride, vocab,
    ZERO_BITS: tl.constexpr, CHUNK: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    row, chunk, chunks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    places = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = places < vocab
    x = tl.load(logits + row * stride + places, mask=inside, other=-float("inf")).to(tl.float32)
    tl.store(faults + row * chunks + chunk, tl.sum((~(x < float("inf"))).to(tl.int32), axis=0))
    values += (row * chunks + chunk) * KEPT
    ids += (row * chunks + chunk) * KEPT
    if tl.load(asked + asked_stride + row) == 0.0:
        largest = tl.max(x, axis=0)
        tl.store(values, largest)
        tl.store(ids, tl.min(tl.where(x == largest, places, vocab - 1), axis=0))
    else:
        keys = tl.where(inside, _ordered(x, ZERO_BITS), 0)
        # As many parts as are kept: the least of their largest is no more than what is sought.
        of_parts = tl.max(tl.reshape(keys, (KEPT, CHUNK // KEPT)), axis=1)
        low, high = tl.min(of_parts, axis=0), tl.max(of_parts, axis=0)
        least = tl.full((), 0, tl.uint32)
        for bit in range(32 - ZERO_BITS):
            more = least | (tl.full((), 1, tl.uint32) << (31 - ZERO_BITS - bit))
            is_least = more <= low
            if (more > low) & (more <= high):
                is_least = tl.sum((keys >= more).to(tl.int32), axis=0) >= KEPT
            least = tl.where(is_least, more, least)
        # Those above it, and of those alike as many as there is room for.
        is_above, is_alike = keys > least, (keys == least) & inside
        room = KEPT - tl.sum(is_above.to(tl.int32), axis=0)
        seen = tl.cumsum(is_above.to(tl.int32) + (is_alike.to(tl.int32) << 16), axis=0)
        above, alike = seen & 0xFFFF, seen >> 16
        is_kept = is_above | (is_alike & (alike <= room))
        there = above + tl.minimum(alike, room) - 1
        tl.store(values + there, x, mask=is_kept)
        tl.store(ids + there, places, mask=is_kept)
        spare = tl.arange(0, KEPT)
        is_spare = spare >= tl.sum(is_kept.to(tl.int32), axis=0)
        tl.store(values + spare, -float("inf"), mask=is_spare)
        tl.store(ids + spare, vocab - 1, mask=is_spare)


@triton.jit(do_not_specialize=["rows"])  # steps that read prompts have any number of them
def _draw_kernel(
    asked, values, ids, faults, chosen, asked_stride, rows, chunks, vocab,
    ZERO_BITS: tl.constexpr, CHUNKS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first = row * chunks * KEPT
    numbers = tl.arange(0, CHUNKS)
    is_chunk = numbers < chunks
    top_k = tl.load(asked + asked_stride + row)
    if top_k == 0.0:
        maxima = tl.load(values + first + numbers * KEPT, mask=is_chunk, other=-float("inf"))
        named = tl.load(ids + first + numbers * KEPT, mask=is_chunk, other=vocab - 1)
        largest = tl.max(maxima, axis=0)
        token = tl.min(tl.where(maxima == largest, named, vocab - 1), axis=0)
    else:
        slots = tl.arange(0, CHUNKS * KEPT)
        x = tl.load(values + first + slots, mask=slots < chunks * KEPT, other=-float("inf"))
        largest = tl.max(x, axis=0)
        keys = _ordered(x, ZERO_BITS)
        least = tl.full((), 0, tl.uint32)
        for bit in range(32 - ZERO_BITS):
            more = least | (tl.full((), 1, tl.uint32) << (31 - ZERO_BITS - bit))
            least = tl.where(tl.sum((keys >= more).to(tl.int32), axis=0) >= top_k, more, least)
        powers = tl.exp((x - largest) / tl.load(asked + row))
        powers = tl.where((keys >= least) & (powers > 0.0), powers, 0.0)  # NaN is none either
        top_p = tl.load(asked + 2 * asked_stride + row)
        if top_p < 1.0:
            powers = _within_top_p(powers, keys, top_p, ZERO_BITS)
        min_p = tl.load(asked + 3 * asked_stride + row)
        powers = tl.where(powers >= min_p * tl.max(powers, axis=0), powers, 0.0)
        cumulated = tl.cumsum(powers, axis=0)
        aim = tl.load(asked + 4 * asked_stride + row) * tl.max(cumulated, axis=0)
        is_possible = powers > 0.0
        is_behind = is_possible & (cumulated > aim)
        place = tl.min(tl.where(is_behind, slots, CHUNKS * KEPT), axis=0)
        # Where rounding leads past the end: the last one that is possible.
        place = tl.minimum(place, tl.max(tl.where(is_possible, slots, 0), axis=0))
        token = tl.load(ids + first + place)
    num_faults = tl.sum(tl.load(faults + row * chunks + numbers, mask=is_chunk, other=0), axis=0)
    tl.store(chosen + row, token)
    is_finite = (num_faults == 0) & (largest > -float("inf"))
    tl.store(chosen + rows + row, is_finite.to(tl.int32))


@triton.jit
def _within_top_p(powers, keys, top_p, ZERO_BITS: tl.constexpr):
    """Leave the likeliest until they make up top_p of all; of those alike first the last ones."""
    limit = tl.maximum(top_p * tl.sum(powers, axis=0), 1e-30)
    least = tl.full((), 0, tl.uint32)
    for bit in range(32 - ZERO_BITS):
        more = least | (tl.full((), 1, tl.uint32) << (31 - ZERO_BITS - bit))
        mass = tl.sum(tl.where(keys >= more, powers, 0.0), axis=0)
        least = tl.where(mass >= limit, more, least)
    is_alike = (keys == least) & (powers > 0.0)
    each = tl.max(tl.where(is_alike, powers, 0.0), axis=0)
    above = tl.sum(tl.where(keys > least, powers, 0.0), axis=0)
    behind = tl.sum(is_alike.to(tl.int32), axis=0) - tl.cumsum(is_alike.to(tl.int32), axis=0)
    is_kept = (keys > least) | (is_alike & (above + behind * each < limit))
    return tl.where(is_kept, powers, 0.0)
