"""Products of the C++ kernels, with what precedes and follows them, against the readable twin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.ops import reference
from danlu.ops.native.native_linear import NATIVE_LINEAR, NativeMatrix
from tests.helpers.models.native import needs_library

pytestmark = needs_library


def numbers(*size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(size, generator=generator) * scale).bfloat16()


def check(
    inputs: int,
    outputs: int,
    rows: int,
    *,
    norm: bool = False,
    gated: bool = False,
    residual: bool = False,
    ends: list[int] | None = None,
    rank: int = 12,
    scale: float = 1.0,
) -> None:
    x = numbers(rows, 2 * inputs if gated else inputs, scale=scale)
    weight, norm_weight = numbers(outputs, inputs, seed=1), numbers(inputs, seed=2)
    total, pair = numbers(rows, outputs, seed=3), None
    if ends is not None:
        a, b = numbers(len(ends), inputs, rank, seed=4), numbers(len(ends), rank, outputs, seed=5)
        pair = a, b, torch.tensor(ends)
    arguments: list[Any] = [norm_weight if norm else None, 1e-6, gated, total if residual else None]
    found = NATIVE_LINEAR.linear(x, NativeMatrix(weight), *arguments, pair)
    wide = [part.float() if isinstance(part, Tensor) else part for part in arguments]
    wide_pair = pair and (pair[0].float(), pair[1].float(), pair[2])
    expected = reference.fused_linear(x.float(), weight.float(), *wide, wide_pair)
    assert (found.dtype, found.shape) == (torch.bfloat16, (rows, outputs))
    # Numbers that are no normal ones any more count as nothing.
    most = expected.abs().max().item() if rows else 0.0
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02 * most + 1e-37)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 11, 12, 13, 30])
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 200])
def test_any_shape(rows: int, outputs: int) -> None:
    check(96, outputs, rows)
    check(2, outputs, rows)


@pytest.mark.parametrize("inputs", [2, 30, 34, 514])
@pytest.mark.parametrize(
    "parts",
    [
        {"norm": True},
        {"residual": True},
        {"gated": True, "residual": True},
        {"norm": True, "ends": [1, 1, 5]},
        {"gated": True, "residual": True, "ends": [0, 5]},
        {"norm": True, "residual": True, "ends": [2, 3, 5], "rank": 1},
    ],
    ids=str,
)
def test_what_precedes_a_product_and_what_is_added(parts: dict[str, Any], inputs: int) -> None:
    check(inputs, 40, 5, **parts)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6])
def test_rows_of_nothing_and_of_extreme_numbers(scale: float) -> None:
    check(96, 40, 3, norm=True, scale=scale)
    check(96, 40, 3, residual=True, scale=scale)
    check(96, 40, 3, gated=True, scale=scale)


def test_what_is_not_a_number_stays_in_its_row() -> None:
    x = numbers(4, 64)
    x[1, 7], x[2, 9] = torch.nan, torch.inf
    found = NativeMatrix(numbers(40, 64, seed=1))(x)
    assert found[1].isnan().all()
    assert not found[2].isfinite().any()
    assert found[[0, 3]].isfinite().all()


def test_a_rows_sum_does_not_depend_on_the_others() -> None:
    weight = NativeMatrix(numbers(150, 800, seed=1))
    x = numbers(310, 800)
    together = weight(x)
    for count in (0, 1, 2, 3, 7, 12, 13, 25, 33, 300):
        assert torch.equal(weight(x[:count]), together[:count])


def test_a_row_in_the_plain_models_place_gets_nothing_from_the_others() -> None:
    x, weight = numbers(2, 64), numbers(8, 64, seed=1)
    a, b = numbers(2, 64, 4, seed=2), numbers(2, 4, 8, seed=3)
    a[0], b[0], a[1] = 0.0, 0.0, torch.nan
    pair = a, b, torch.tensor([1, 2])
    found = NATIVE_LINEAR.linear(x, NativeMatrix(weight), None, 0.0, False, None, pair)
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


def test_rows_that_are_not_contiguous() -> None:
    weight, x = NativeMatrix(numbers(48, 32)), numbers(20, 64, seed=1)
    assert torch.equal(weight(x[::2, :32]), weight(x[::2, :32].contiguous()))
