"""A paged cache's kernels: writing tokens into their slots, and attention to them where they lie.

A program attends with a block of one request's queries, with all those query heads that share keys
and values: they are rows of one product (grouped queries), so keys and values are read once for
them. A running maximum and sum keep it to one pass (Milakov and Gimelshein 2018). Where few
requests decode, a request's tokens are split between programs, and a second kernel joins what they
found (flash decoding). How many there are follows from shapes only: a recorded step starts the same
programs whatever the lengths, and those without tokens end at once. How many tokens each takes
follows from the length, so that a short request is spread over the card, too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.cache.key_value_store import CacheStep

# Programs that fill a large card a few times over, and the most splits of a request for that.
_PROGRAMS, _MOST_SPLITS = 512, 32
# Rows of a product: in a step that decodes, and in one that reads prompts.
_FEW_ROWS, _ROWS = 16, 64
_LOG2_E = 1.4426950408889634


def append(store: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Write k and v [T, kv_heads, head_dim], of any strides between heads and tokens, into slots.

    store: [2, blocks, block_tokens, kv_heads, head_dim] of a layer.
    """
    tokens, kv_heads, head_dim = k.shape
    if tokens:
        _append_kernel[(tokens,)](
            *(*store, slots, k, v, *k.stride()[:2], *v.stride()[:2]),
            SIZE=kv_heads * head_dim,
            HEAD_DIM=head_dim,
            BLOCK=triton.next_power_of_2(kv_heads * head_dim),
        )


def attend(store: Tensor, step: CacheStep, q: Tensor) -> Tensor:
    """Attend with q [T, heads, head_dim] -> [T, heads * head_dim]; see `Cache.attend`."""
    _two, _blocks, block_tokens, kv_heads, head_dim = store.shape
    tokens, heads, _head_dim = q.shape
    requests, width = step.block_table.shape
    group = heads // kv_heads
    is_wide = q.dtype == torch.float32  # takes twice the memory, and no tensor cores
    # Of shared memory a block has 99 KiB on cards for desktops.
    tile, splits = min(block_tokens, 32 if is_wide or head_dim > 128 else 64), 1
    if step.is_decoding:
        splits = _splits(requests * kv_heads, width * block_tokens // tile)
    rows = max(_FEW_ROWS if is_wide or step.is_decoding else _ROWS, triton.next_power_of_2(group))
    out = q.new_empty(tokens, heads * head_dim)
    parts = q.new_empty(0, dtype=torch.float32)
    if splits > 1:  # of each query head and split: what it found, its largest score, its sum
        parts = q.new_empty(tokens * heads * splits * (head_dim + 2), dtype=torch.float32)
    _attend_kernel[(requests, kv_heads, splits * triton.cdiv(max(step.counts), rows // group))](
        *(q, *store, step.block_table, step.lengths, step.offsets, out, parts),
        *(q.stride(0), q.stride(1), step.block_table.stride(0), head_dim**-0.5 * _LOG2_E),
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_DIM=max(triton.next_power_of_2(head_dim), 16),
        PAGE=block_tokens,
        TILE=tile,
        ROWS=rows,
        SPLITS=splits,
        DECODES=step.is_decoding,
        num_warps=4,
        num_stages=2,
    )
    if splits > 1:
        _join_kernel[(tokens, heads)](
            *(parts, step.lengths, out),
            HEAD_DIM=head_dim,
            BLOCK_DIM=triton.next_power_of_2(head_dim),
            TILE=tile,
            SPLITS=splits,
        )
    return out


def _splits(programs: int, tiles: int) -> int:
    """Return how many programs share a request's tokens: a power of two."""
    wanted = min(_PROGRAMS // programs, _MOST_SPLITS, tiles)
    return 1 << max(wanted, 1).bit_length() - 1


@triton.jit
def _append_kernel(
    keys, values, slots, k, v, k_token, k_head, v_token, v_head,
    SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < SIZE
    head, number = places // HEAD_DIM, places % HEAD_DIM
    there = tl.load(slots + token).to(tl.int64) * SIZE + places
    key = tl.load(k + token * k_token + head * k_head + number, mask=inside, other=0.0)
    value = tl.load(v + token * v_token + head * v_head + number, mask=inside, other=0.0)
    tl.store(keys + there, key, mask=inside)
    tl.store(values + there, value, mask=inside)


@triton.jit
def _tokens_of_split(length, TILE: tl.constexpr, SPLITS: tl.constexpr):
    """How many tokens each split of a request takes: whole tiles."""
    return tl.cdiv(tl.cdiv(length, SPLITS), TILE) * TILE


@triton.jit
def _attend_tile(x, keys, values, inside, allowed, scale, largest, total, found):
    """Add a tile of tokens to what was found, all of it relative to the largest score."""
    k = tl.load(keys, mask=inside, other=0.0)
    scores = tl.dot(x, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where(allowed, scores, float("-inf"))
    now = tl.maximum(largest, tl.max(scores, axis=1))
    weights = tl.exp2(scores - now[:, None])
    shrink = tl.exp2(largest - now)
    v = tl.load(values, mask=inside, other=0.0)
    found = tl.dot(weights.to(v.dtype), v, found * shrink[:, None], input_precision="ieee")
    return now, total * shrink + tl.sum(weights, axis=1), found


@triton.jit
def _attend_kernel(
    q, keys, values, block_table, lengths, offsets, out, parts,
    q_token, q_head, table_stride, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, PAGE: tl.constexpr,
    TILE: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr, DECODES: tl.constexpr,
):  # fmt: skip
    request, kv_head, kv_heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    block, split = tl.program_id(2) // SPLITS, tl.program_id(2) % SPLITS
    length = tl.load(lengths + request)
    first_token, count = request, 1
    if not DECODES:
        first_token = tl.load(offsets + request)
        count = tl.load(offsets + request + 1) - first_token
    QUERIES: tl.constexpr = ROWS // GROUP
    first = block * QUERIES
    start = split * _tokens_of_split(length, TILE, SPLITS)
    if (first >= count) | (start >= length):
        return
    # The last query of the block sees the most.
    stop = tl.minimum(length, length - count + first + QUERIES)
    if SPLITS > 1:
        stop = tl.minimum(stop, start + _tokens_of_split(length, TILE, SPLITS))
    rows, numbers = tl.arange(0, ROWS), tl.arange(0, BLOCK_DIM)
    query, head = first + rows // GROUP, kv_head * GROUP + rows % GROUP
    is_query = (rows < QUERIES * GROUP) & (query < count)
    sees = length - count + query
    token = (first_token + query).to(tl.int64)
    in_head = numbers < HEAD_DIM
    x = tl.load(
        q + token[:, None] * q_token + head[:, None] * q_head + numbers[None, :],
        mask=is_query[:, None] & in_head[None, :],
        other=0.0,
    )
    largest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    found = tl.zeros((ROWS, BLOCK_DIM), dtype=tl.float32)
    table = block_table + request.to(tl.int64) * table_stride
    for place in range(start, stop, TILE):
        page = tl.load(table + place // PAGE).to(tl.int64)
        places = place + tl.arange(0, TILE)
        slots = (page * PAGE + places % PAGE) * kv_heads + kv_head
        there = slots[:, None] * HEAD_DIM + numbers[None, :]
        # What is behind the request's end may hold what is not finite: 0 times that is NaN.
        inside = (places < length)[:, None] & in_head[None, :]
        allowed = (places[None, :] <= sees[:, None]) & (places < length)[None, :]
        largest, total, found = _attend_tile(
            x, keys + there, values + there, inside, allowed, scale, largest, total, found
        )
    row = token * (kv_heads * GROUP) + head
    inside = is_query[:, None] & in_head[None, :]
    if SPLITS == 1:
        result = found / total[:, None]
        tl.store(out + row[:, None] * HEAD_DIM + numbers[None, :], result, mask=inside)
    else:
        part = (row * SPLITS + split) * (HEAD_DIM + 2)
        tl.store(parts + part[:, None] + numbers[None, :], found, mask=inside)
        tl.store(parts + part + HEAD_DIM, largest, mask=is_query)
        tl.store(parts + part + HEAD_DIM + 1, total, mask=is_query)


@triton.jit
def _join_kernel(
    parts, lengths, out,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Each split's part is weighted by how its largest score compares with the largest of all."""
    request, heads = tl.program_id(0), tl.num_programs(1)
    length = tl.load(lengths + request)
    splits, numbers = tl.arange(0, SPLITS), tl.arange(0, BLOCK_DIM)
    used = splits * _tokens_of_split(length, TILE, SPLITS) < length
    in_head = numbers < HEAD_DIM
    row = request.to(tl.int64) * heads + tl.program_id(1)
    part = parts + (row * SPLITS + splits) * (HEAD_DIM + 2)
    largest = tl.load(part + HEAD_DIM, mask=used, other=float("-inf"))
    weight = tl.exp2(largest - tl.max(largest, axis=0))
    total = tl.sum(weight * tl.load(part + HEAD_DIM + 1, mask=used, other=0.0), axis=0)
    found = tl.load(
        part[:, None] + numbers[None, :], mask=used[:, None] & in_head[None, :], other=0.0
    )
    result = tl.sum(found * weight[:, None], axis=0) / total
    tl.store(out + row * HEAD_DIM + numbers, result, mask=in_head)
