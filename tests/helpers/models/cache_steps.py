"""Steps of a cache of keys and values, and what is attended to in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.ops import Cache
from danlu.ops.cache.paged_store import step_of

CPU = torch.device("cpu")
HEADS, KV_HEADS, HEAD_DIM, LAYERS = 4, 2, 16, 2
# Of each step and request, how many tokens it has before and behind the step.
Steps = Sequence[Sequence[tuple[int, int]]]
STEPS: dict[str, Steps] = {
    "one prompt": [[(0, 200)]],
    "a prompt in parts, then a token": [[(0, 130)], [(130, 270)], [(270, 271)]],
    "many decode": [[(0, 5), (0, 128), (0, 300)], [(5, 6), (128, 129), (300, 301)]],
    "one reads, two write": [[(0, 9), (0, 40)], [(9, 10), (40, 41), (0, 150)]],
    "a token of its own": [[(0, 1)], [(1, 2)]],
}


def scattered_tables(lengths: Sequence[int], block_tokens: int) -> list[list[int]]:
    """Blocks for requests of these lengths: scattered, each request's out of order."""
    counts = [-(-length // block_tokens) for length in lengths]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1)).tolist()
    return [[order.pop() for _ in range(count)] for count in counts]


def answers(
    kind: type[Cache],
    steps: Steps,
    dtype: torch.dtype,
    *,
    heads: int = HEADS,
    kv_heads: int = KV_HEADS,
    head_dim: int = HEAD_DIM,
) -> list[Tensor]:
    """What each step's queries attend to, in both layers. What nobody has written is NaN."""
    lengths = [
        max(step[n][1] for step in steps if n < len(step)) for n in range(max(map(len, steps)))
    ]
    tables = scattered_tables(lengths, kind.block_tokens)
    num_blocks = sum(map(len, tables))
    cache = kind(LAYERS, kv_heads, num_blocks, head_dim, device=CPU, dtype=dtype)
    cache._store.fill_(torch.nan)  # type: ignore[attr-defined]
    outputs = []
    generator = torch.Generator().manual_seed(7)
    for spans in steps:
        starts, ends = zip(*spans, strict=True)
        step = step_of(tables[: len(spans)], starts, ends, kind.block_tokens, CPU)
        for layer in range(LAYERS):
            q, k, v = (
                torch.randn(sum(step.counts), count, head_dim, generator=generator).to(dtype)
                for count in (heads, kv_heads, kv_heads)
            )
            cache.append(layer, step, k, v)
            outputs.append(cache.attend(layer, step, q))
    return outputs
