"""Attention of packed segments in C++ against the readable twin: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.ops import Segments, reference
from danlu.ops.attention import ATTENTION
from danlu.ops.native.packed_segments import packed_attention
from tests.helpers.models.instruction_sets import each_isa
from tests.helpers.models.native import needs_library

__all__ = ["each_isa"]
pytestmark = [needs_library, pytest.mark.usefixtures("each_isa")]


def numbers(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).bfloat16()


def check(
    lengths: list[int],
    heads: int,
    kv_heads: int,
    dim: int,
    *,
    scale: float = 1.0,
    share: float = 0.02,
) -> None:
    """Compare with the twin in fp32; share: of the largest number that an error may be.

    Weights and their gradients are rounded to bf16 on the way, as flash attention does.
    """
    tokens = sum(lengths)
    q = numbers(tokens, heads, dim, seed=1, scale=scale)
    merged = numbers(tokens, heads + 2 * kv_heads, dim, seed=2, scale=scale)
    k, v = merged[:, heads : heads + kv_heads], merged[:, heads + kv_heads :]  # rows far apart
    upstream = numbers(tokens, heads * dim, seed=3)
    small = [part.detach().requires_grad_() for part in (q, k, v)]
    wide = [part.detach().float().requires_grad_() for part in (q, k, v)]
    segments = Segments.of(lengths, "cpu")
    out = packed_attention(*small, segments)
    right = reference.segment_attention(*wide, segments.offsets)
    found = [out, *torch.autograd.grad(out, small, upstream)]
    expected = [right, *torch.autograd.grad(right, wide, upstream.float())]
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == torch.bfloat16
        error = (got.float() - want).abs().max().item()
        assert error <= share * max(want.abs().max().item(), 1e-3)


@pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [2, 0, 3],
        [2, 1, 3],
        [11],
        [12],
        [13],
        [31, 32, 33],
        [95],
        [96],
        [97],
        [100, 60, 4],
        [193, 1],
    ],
    ids=str,
)
def test_any_length(lengths: list[int]) -> None:
    check(lengths, 4, 2, 64)


@pytest.mark.parametrize("dim", [2, 5, 6, 16, 30, 34, 80, 128, 160])
def test_any_size_of_a_head(dim: int) -> None:
    check([40, 7], 2, 1, dim)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 6), (6, 2), (8, 1)])
def test_any_sharing_of_keys(heads: int, kv_heads: int) -> None:
    check([21, 50], heads, kv_heads, 32)


@pytest.mark.parametrize("scale", [1e-4, 30.0])
def test_weights_that_are_all_alike_or_all_on_one(scale: float) -> None:
    """Scores of some thousands are no trouble: the largest of a row is taken away first."""
    check([70, 30], 4, 2, 64, scale=scale, share=0.03)


def test_no_token_sees_a_later_one_or_another_segment() -> None:
    q, k, v = (numbers(60, heads, 32, seed=n) for n, heads in enumerate((4, 2, 2)))
    segments = Segments.of([25, 35], "cpu")
    before = packed_attention(q, k, v, segments)
    for part in (k, v):
        part[20:25] = 100.0  # the end of the first segment
    after = packed_attention(q, k, v, segments)
    assert torch.equal(after[:20], before[:20])
    assert torch.equal(after[25:], before[25:])


def test_what_is_no_number_is_seen() -> None:
    q, k, v = (numbers(40, 2, 32, seed=n) for n in range(3))
    v[25] = torch.nan
    out = packed_attention(q, k, v, Segments.of([20, 20], "cpu"))
    assert out[:20].isfinite().all()
    assert out[25:].isnan().all()


def test_the_next_segment_is_not_touched_by_what_a_thread_did_before() -> None:
    """A thread's memory is used again: a long segment leaves its numbers there."""
    alone = {}
    for lengths in ([9], [300, 9]):
        q, k, v = (numbers(sum(lengths), 2, 64, seed=n) for n in range(3))
        last = [part[-9:].clone() for part in (q, k, v)] if len(lengths) == 1 else None
        if last is not None:
            alone["parts"], alone["out"] = (
                last,
                packed_attention(q, k, v, Segments.of(lengths, "cpu")),
            )
            continue
        for part, wanted in zip((q, k, v), alone["parts"], strict=True):
            part[-9:] = wanted
        out = packed_attention(q, k, v, Segments.of(lengths, "cpu"))
        assert torch.equal(out[-9:], alone["out"])


def test_it_is_at_least_as_near_as_16_bits_allow() -> None:
    """Beside attention in fp32 the error is that of rounding the output, and the weights."""
    q, k, v = (numbers(150, heads, 128, seed=n) for n, heads in enumerate((4, 2, 2)))
    segments = Segments.of([150], "cpu")
    ours = packed_attention(q, k, v, segments).float()
    theirs = ATTENTION.variants["float32"](q, k, v, segments).float()
    assert (ours - theirs).norm() / theirs.norm() < 0.005
