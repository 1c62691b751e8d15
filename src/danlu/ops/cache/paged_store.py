"""The cache in pages, as accelerators' kernels take it; here attended to in plain operations.

What a step of all requests needs is on the device: block tables and lengths. So steps that only
decode cost the same operations for one request and for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from danlu.ops.cache.key_value_store import (
    GATHERED_TOKENS,
    ByHead,
    Cache,
    CacheStep,
    RequestGroup,
    Twin,
    attend_new,
)
from danlu.ops.choice import Operation, example


class Paged(Cache):
    """[layers, 2 (keys, values), blocks, block_tokens, kv_heads, head_dim].

    A slot's heads lie together, so that writing one touches nothing else: Ascend's `index_copy_`
    along any dimension but the first transposes the whole tensor there and back (ops-nn's sources
    of August 2026).
    """

    block_tokens = 128
    gathered_tokens = GATHERED_TOKENS
    takes_tables = True
    pads_rows = True

    @classmethod
    def _shape(cls, kv_heads: int, num_blocks: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks, cls.block_tokens, kv_heads, head_dim

    def append(self, layer: int, step: CacheStep, k: Tensor, v: Tensor) -> None:
        """Write into the slots."""
        for part, new in zip(self._store[layer], (k, v), strict=True):
            part.flatten(0, 1).index_copy_(0, step.wide_slots, new)

    def attend(self, layer: int, step: CacheStep, q: Tensor) -> Tensor:
        """Attend with all requests at once where they only decode, else one after the other."""
        keys, values = self._store[layer]
        if step.is_decoding:
            outputs = [_attend_rows(q[group.rows], keys, values, group) for group in step.groups]
        else:
            outputs = [
                self._attend_one(part, keys, values, step.block_table[index], end)
                for index, (part, end) in enumerate(
                    zip(q.split(list(step.counts)), step.ends, strict=True)
                )
            ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _attend_one(
        self, q: Tensor, keys: Tensor, values: Tensor, table: Tensor, end: int
    ) -> Tensor:
        blocks = table[: -(-end // self.block_tokens)]
        k, v = (
            store.index_select(0, blocks).flatten(0, 1)[:end].transpose(0, 1)
            for store in (keys, values)
        )
        return attend_new(q, k, v)


def _attend_rows(q: Tensor, keys: Tensor, values: Tensor, group: RequestGroup) -> Tensor:
    """Attend with one query of each request.

    q: [N, heads, head_dim]; keys, values: [blocks, size, kv_heads, head_dim] -> [N, heads *
    head_dim].
    """
    count, num_heads, head_dim = q.shape
    kv_heads = keys.shape[2]
    k, v = (
        store.index_select(0, group.blocks.flatten())
        .view(count, -1, kv_heads, head_dim)
        .transpose(1, 2)  # [N, kv_heads, W * size, head_dim]
        for store in (keys, values)
    )
    grouped = q.reshape(count, kv_heads, -1, head_dim) * head_dim**-0.5
    scores = torch.matmul(grouped, k.transpose(2, 3)).float()
    scores.masked_fill_(group.beyond[:, None, None], -torch.inf)
    weights = scores.softmax(dim=3).to(q.dtype)
    # A slot may hold what is not finite, left by a request that failed: 0 times that is NaN.
    v = v.masked_fill(group.beyond[:, None, :, None], 0.0)
    return torch.matmul(weights, v).view(count, num_heads * head_dim)


def _trial(kind: type[Cache], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Two requests: their prompts, then a token each."""
    size, (heads, kv_heads, head_dim) = kind.block_tokens, (4, 2, 128)
    tables = tables_of((150, 300), size)
    outputs = []
    with torch.no_grad():
        cache = kind(1, kv_heads, sum(map(len, tables)), head_dim, device=device, dtype=dtype)
        for starts, ends in (([0, 0], [140, 257]), ([140, 257], [141, 258])):
            step = step_of(tables, starts, ends, size, device)
            q, k, merged = (
                example(sum(step.counts), n, head_dim, device=device, dtype=dtype, seed=n)
                for n in (heads, kv_heads, 2 * heads)
            )
            v = merged[:, -kv_heads:]  # values lie beside what they were projected with
            cache.append(0, step, k, v)
            outputs.append(cache.attend(0, step, q))
    return outputs


def tables_of(lengths: Sequence[int], block_tokens: int) -> list[list[int]]:
    """Give each request blocks for so many tokens, out of order."""
    counts = [-(-length // block_tokens) for length in lengths]
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    return [
        list(range(end - 1, end - count - 1, -1)) for count, end in zip(counts, ends, strict=True)
    ]


def step_of(
    tables: Sequence[Sequence[int]],
    starts: Sequence[int],
    ends: Sequence[int],
    block_tokens: int,
    device: torch.device,
) -> CacheStep:
    """Describe a step in which requests have the tokens [start, end) to compute."""
    places = [range(start, end) for start, end in zip(starts, ends, strict=True)]
    slots = [
        table[place // block_tokens] * block_tokens + place % block_tokens
        for table, some in zip(tables, places, strict=True)
        for place in some
    ]
    counts = [len(some) for some in places]
    widest = max(map(len, tables))
    table = torch.tensor([[*row, *[0] * (widest - len(row))] for row in tables])
    return CacheStep(
        counts=counts,
        ends=list(ends),
        tables=tables,
        block_tokens=block_tokens,
        slots=torch.tensor(slots, device=device, dtype=torch.int32),
        block_table=table.to(device, torch.int32),
        lengths=torch.tensor(ends, device=device, dtype=torch.int32),
        offsets=torch.tensor([0, *accumulate(counts)], device=device, dtype=torch.int32),
    )


CACHE: Operation[type[Cache]] = Operation(
    "cache", {"by_head": ByHead, "paged": Paged, "reference": Twin}, _trial
)
