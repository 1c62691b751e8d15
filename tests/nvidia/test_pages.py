"""The paged cache in Triton: any mix of requests, splits of long ones, what is nobody's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from danlu.ops.cache.key_value_store import CacheStep, Twin
from danlu.ops.cache.paged_store import Paged, step_of
from danlu.ops.nvidia import paged_kernels
from danlu.ops.nvidia.triton_pages import TritonPages
from tests.helpers.models.cache_steps import CPU, STEPS, Steps, answers, scattered_tables

SHARE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.003}
DTYPES = pytest.mark.parametrize("dtype", SHARE, ids=str)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(steps: Steps, dtype: torch.dtype, **heads: int) -> None:
    found = answers(TritonPages, steps, dtype, **heads)
    for got, expected in zip(found, answers(Twin, steps, torch.float32, **heads), strict=True):
        assert (got.dtype, got.shape) == (dtype, expected.shape)
        torch.testing.assert_close(got.float(), expected, atol=SHARE[dtype], rtol=SHARE[dtype])


@pytest.mark.parametrize("name", STEPS)
def test_they_answer_as_the_twin_does(name: str) -> None:
    check(STEPS[name], torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_in_other_dtypes(dtype: torch.dtype) -> None:
    check([[(0, 9), (0, 40)], [(9, 10), (40, 41), (0, 70)], [(10, 11), (41, 42), (70, 71)]], dtype)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(4, 4, 64), (5, 1, 128), (20, 1, 48), (3, 3, 16)],
    ids=["a head each", "five share", "twenty share", "not a power of two"],
)
def test_query_heads_that_share_keys(heads: int, kv_heads: int, head_dim: int) -> None:
    steps = [[(0, 30), (0, 2)], [(30, 31), (2, 3)]]
    check(steps, torch.bfloat16, heads=heads, kv_heads=kv_heads, head_dim=head_dim)


@pytest.mark.parametrize("programs", [2, 16, 512], ids=["no split", "a few", "many"])
def test_a_request_is_split_between_programs(
    programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one token to several pages: splits without tokens, and with a part of a tile."""
    monkeypatch.setattr(paged_kernels, "_PROGRAMS", programs)
    ends = [1, 63, 64, 127, 128, 129, 700]
    tables = scattered_tables([800] * len(ends), 128)
    starts = [end - 1 for end in ends]
    k, v, q = (numbers(sum(ends), count, 64, seed=count) for count in (1, 1, 2))
    found = []
    for kind in (TritonPages, Paged):
        cache = kind(1, 1, 49, 64, device=CPU, dtype=torch.float32)
        cache._store.fill_(torch.nan)
        cache.append(0, step_of(tables, [0] * len(ends), ends, 128, CPU), k, v)
        found.append(cache.attend(0, step_of(tables, starts, ends, 128, CPU), q[: len(ends)]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_it_is_split_into_powers_of_two_by_shapes_alone() -> None:
    def splits(rows: int, table: int) -> int:
        return paged_kernels._splits(rows * 8, table * 2)

    assert [splits(rows, 320) for rows in (1, 2, 4, 16, 64, 128)] == [32, 32, 16, 4, 1, 1]
    assert splits(1, 3) == 4


def stored(kind: type[Paged], dtype: torch.dtype) -> tuple[Paged, list[list[int]], Tensor]:
    """A cache in which three requests have 150, 1 and 300 tokens; and queries of the next."""
    tables = scattered_tables([400, 400, 400], 128)
    cache = kind(1, 2, 13, 64, device=CPU, dtype=dtype)
    cache._store.fill_(torch.nan)
    step = step_of(tables, [0, 0, 0], [151, 2, 301], 128, CPU)
    k, v = (numbers(454, 2, 64, seed=seed).to(dtype) for seed in (1, 2))
    cache.append(0, step, k, v)
    return cache, tables, numbers(3, 6, 64, seed=3).to(dtype)


def decoding(tables: list[list[int]]) -> CacheStep:
    return step_of(tables, [150, 1, 300], [151, 2, 301], 128, CPU)


def test_a_step_that_decodes_reads_what_is_on_the_device_only() -> None:
    cache, tables, q = stored(TritonPages, torch.float32)
    expected = stored(Paged, torch.float32)[0].attend(0, decoding(tables), q)
    step = decoding(tables)
    # A wide table whose end is old: it names a block that is nobody's, of NaN.
    old = torch.full((3, 20), 12, dtype=torch.int32)
    table = torch.cat((step.block_table, old), dim=1)
    for row, used in enumerate((2, 1, 3)):
        table[row, used:] = 12
    blind = replace(step, ends=[0, 0, 0], tables=[[], [], []], block_table=table)
    torch.testing.assert_close(cache.attend(0, blind, q), expected, atol=1e-5, rtol=1e-5)


def test_it_is_the_same_every_time() -> None:
    cache, tables, q = stored(TritonPages, torch.bfloat16)
    first, again = (cache.attend(0, decoding(tables), q) for _time in range(2))
    assert torch.equal(first, again)


@DTYPES
def test_what_is_written_may_lie_beside_other_numbers(dtype: torch.dtype) -> None:
    merged = torch.randn(5, 8, 48).to(dtype)
    k, v = merged[:, 4:6], merged[:, 6:]
    stores = []
    for kind in (TritonPages, Paged):
        cache = kind(1, 2, 3, 48, device=CPU, dtype=dtype)
        cache._store.zero_()
        cache.append(0, step_of([[2, 0]], [126], [131], 128, CPU), k, v)
        stores.append(cache._store)
    assert torch.equal(*stores)
    assert stores[0].count_nonzero() == k.count_nonzero() + v.count_nonzero()


def test_queries_may_lie_beside_other_numbers() -> None:
    cache, tables, q = stored(TritonPages, torch.float32)
    merged = torch.cat((q, torch.full_like(q, torch.nan)), dim=1)
    expected = cache.attend(0, decoding(tables), q)
    assert torch.equal(cache.attend(0, decoding(tables), merged[:, :6]), expected)


def test_scores_may_be_huge() -> None:
    cache, tables, q = stored(TritonPages, torch.float32)
    step = decoding(tables)
    expected = stored(Paged, torch.float32)[0].attend(0, step, q * 1e4)
    torch.testing.assert_close(cache.attend(0, step, q * 1e4), expected, atol=1e-4, rtol=1e-4)
