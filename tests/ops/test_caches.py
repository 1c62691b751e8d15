"""Every layout of the cache against the readable twin: prompts, continued prompts, many at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from danlu.ops import Cache
from danlu.ops.cache import key_value_store
from danlu.ops.cache.key_value_store import ByHead, Twin
from danlu.ops.cache.paged_store import CACHE, Paged, step_of

CPU = torch.device("cpu")
HEADS, KV_HEADS, HEAD_DIM, LAYERS = 4, 2, 16, 2
SHARE = {torch.float32: 2e-6, torch.bfloat16: 0.02}
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"]
)
# Of each request, how many tokens it has before and behind each step.
STEPS = {
    "one prompt": [[(0, 200)]],
    "a prompt in parts, then a token": [[(0, 130)], [(130, 270)], [(270, 271)]],
    "many decode": [[(0, 5), (0, 128), (0, 300)], [(5, 6), (128, 129), (300, 301)]],
    "one reads, two write": [[(0, 9), (0, 40)], [(9, 10), (40, 41), (0, 150)]],
    "a token of its own": [[(0, 1)], [(1, 2)]],
}


def tables_of(lengths: Sequence[int], block_tokens: int) -> list[list[int]]:
    """Blocks for requests of these lengths: scattered, each request's out of order."""
    counts = [-(-length // block_tokens) for length in lengths]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1)).tolist()
    return [[order.pop() for _ in range(count)] for count in counts]


def answers(kind: type[Cache], name: str, dtype: torch.dtype) -> list[Tensor]:
    """What each step's queries attend to, in both layers."""
    steps = STEPS[name]
    lengths = [
        max(step[n][1] for step in steps if n < len(step)) for n in range(max(map(len, steps)))
    ]
    tables = tables_of(lengths, kind.block_tokens)
    num_blocks = sum(map(len, tables))
    cache = kind(LAYERS, KV_HEADS, num_blocks, HEAD_DIM, device=CPU, dtype=dtype)
    cache._store.fill_(torch.nan)  # type: ignore[attr-defined]
    outputs = []
    generator = torch.Generator().manual_seed(7)
    for spans in steps:
        starts, ends = zip(*spans, strict=True)
        step = step_of(tables[: len(spans)], starts, ends, kind.block_tokens, CPU)
        for layer in range(LAYERS):
            q, k, v = (
                torch.randn(sum(step.counts), heads, HEAD_DIM, generator=generator).to(dtype)
                for heads in (HEADS, KV_HEADS, KV_HEADS)
            )
            cache.append(layer, step, k, v)
            outputs.append(cache.attend(layer, step, q))
    return outputs


@both_dtypes
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("kind", [ByHead, Paged])
def test_they_answer_as_the_twin_does(kind: type[Cache], name: str, dtype: torch.dtype) -> None:
    """What is behind a request's end, in its last block, is nobody's: here it is NaN."""
    for got, expected in zip(
        answers(kind, name, dtype), answers(Twin, name, torch.float32), strict=True
    ):
        assert got.dtype == dtype
        assert got.shape == (len(expected), HEADS * HEAD_DIM)
        torch.testing.assert_close(got.float(), expected, atol=SHARE[dtype], rtol=SHARE[dtype])


@pytest.mark.parametrize("most", [128, 700, 1 << 15])
def test_requests_are_gathered_in_groups(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_value_store, "GATHERED_TOKENS", most)
    ends = [5, 130, 7, 300, 1]
    step = step_of(tables_of(ends, 128), [end - 1 for end in ends], ends, 128, CPU)
    covered = [n for group in step.groups for n in range(group.rows.start, group.rows.stop)]
    assert covered == list(range(len(ends)))
    for group in step.groups:
        assert group.blocks.shape[0] == 1 or group.beyond.numel() <= most
    assert len(step.groups) == {128: 5, 700: 4, 1 << 15: 1}[most]
    torch.testing.assert_close(
        answers(Paged, "many decode", torch.float32)[-1],
        answers(Twin, "many decode", torch.float32)[-1],
    )


def test_another_layout_that_mixes_requests_is_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mixing(ByHead):
        def attend(self, layer: int, step: key_value_store.CacheStep, q: Tensor) -> Tensor:
            return super().attend(layer, step, q).flip(0)

    monkeypatch.setattr(CACHE, "_chosen", {})
    monkeypatch.setattr(CACHE, "off", {})
    monkeypatch.setattr(CACHE, "variants", {**CACHE.variants, "by_head": Mixing})
    assert CACHE.name_on(CPU) == "paged"
    assert CACHE.off["cpu"][0].startswith("cache=by_head: ")
