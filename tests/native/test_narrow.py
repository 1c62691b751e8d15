"""An adapter's second products and their gradients in C++ against the readable twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.ops.low_rank import LOW_RANK, Blocks
from danlu.ops.native.narrow import BY_TARGET
from tests.helpers.models.instruction_sets import each_isa
from tests.helpers.models.native import needs_library

__all__ = ["each_isa"]
pytestmark = [needs_library, pytest.mark.usefixtures("each_isa")]
TWIN = LOW_RANK.variants["reference"]


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def check(rows: int, sizes: list[int], ranks: list[int], gap: int = 0) -> None:
    """Compare what is added and all gradients. gap: columns between the targets, of no target."""
    places, parts, out, rank = [], [], 0, 0
    for size, width in zip(sizes, ranks, strict=True):
        places.append((slice(out, out + size), slice(rank, rank + width)))
        parts.append(numbers(size, width, seed=size))
        out, rank = out + size + gap, rank + width
    blocks = Blocks(parts=tuple(parts), places=tuple(places))
    y, dy, t = numbers(rows, out, seed=1), numbers(rows, out, seed=2), numbers(rows, rank, seed=3)
    wide = Blocks(parts=tuple(part.float() for part in parts), places=blocks.places)
    expected = y.float()
    TWIN.add(expected[:, : places[-1][0].stop], t.float(), wide, 1.5)
    dt, dbs = TWIN.gradients(dy.float()[:, : places[-1][0].stop], t.float(), wide, 1.5)
    BY_TARGET.add(y, t, blocks, 1.5)
    found_dt, found_dbs = BY_TARGET.gradients(dy, t, blocks, 1.5)
    for got, right in zip((y, found_dt, *found_dbs), (expected, dt, *dbs), strict=True):
        assert got.shape == right.shape
        error = (got.float() - right).abs().max().item()
        assert error <= 0.01 * right.abs().max().item()


@pytest.mark.parametrize("rows", [1, 2, 3, 12, 13, 47])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 300])
def test_any_shape(rows: int, size: int) -> None:
    check(rows, [size], [8])


@pytest.mark.parametrize("rank", [1, 2, 3, 6, 10, 16, 30, 64])
def test_any_rank(rank: int) -> None:
    """Odd ones, too, which torch multiplies."""
    check(20, [70], [rank])


def test_several_targets_with_gaps_between_them() -> None:
    check(19, [64, 32, 20], [8, 4, 16], gap=24)


def test_what_belongs_to_no_target_stays() -> None:
    y, t = numbers(9, 96, seed=1), numbers(9, 8, seed=2)
    before = y.clone()
    places = ((slice(40, 80), slice(0, 8)),)
    BY_TARGET.add(y, t, Blocks(parts=(numbers(40, 8, seed=3),), places=places), 2.0)
    assert torch.equal(y[:, :40], before[:, :40])
    assert torch.equal(y[:, 80:], before[:, 80:])
    assert not torch.equal(y, before)
