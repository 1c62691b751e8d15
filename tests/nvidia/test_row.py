"""A projection of one row in one kernel: any shape, what precedes it, what is added to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.device.variants import TRITON
from danlu.ops.fused_linear import FUSED_LINEAR, is_fused
from tests.helpers.models.variants import taken

SHARE = {torch.float32: 1e-5, torch.bfloat16: 0.01, torch.float16: 0.003}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(
    inputs: int,
    outputs: int,
    dtype: torch.dtype = torch.float32,
    *,
    norm: bool = False,
    gated: bool = False,
    residual: bool = False,
    ends: list[int] | None = None,
    rank: int = 5,
    size: float = 1.0,
) -> None:
    x = size * numbers(1, (1 + gated) * inputs)
    weight, norm_weight = numbers(outputs, inputs, seed=1), numbers(inputs, seed=2)
    total, pair = numbers(1, outputs, seed=3), None
    if ends is not None:
        a, b = numbers(len(ends), inputs, rank, seed=4), numbers(len(ends), rank, outputs, seed=5)
        pair = a.to(dtype), b.to(dtype), torch.tensor(ends)

    def result(name: str, wide: bool) -> Tensor:
        def seen(tensor: Tensor) -> Tensor:
            return tensor.to(dtype).float() if wide else tensor.to(dtype)

        arguments: list[Any] = [seen(x), seen(weight), seen(norm_weight) if norm else None, 1e-6]
        arguments += [gated, seen(total) if residual else None]
        own = pair and (seen(pair[0]), seen(pair[1]), pair[2])
        return FUSED_LINEAR.variants[name].linear(*arguments, own)

    with torch.no_grad():
        found, expected = result(TRITON, False), result("reference", True)
    assert (found.dtype, found.shape) == (dtype, (1, outputs))
    assert (found.float() - expected).abs().max() <= SHARE[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", SHARE, ids=str)
@pytest.mark.parametrize(
    "parts",
    [
        {"norm": True},
        {"residual": True},
        {"gated": True, "residual": True},
        {"norm": True, "ends": [0, 1]},
        {"gated": True, "residual": True, "ends": [0, 0, 1, 1]},
    ],
    ids=str,
)
def test_what_precedes_a_product_and_what_is_added(
    parts: dict[str, Any], dtype: torch.dtype
) -> None:
    check(96, 40, dtype, **parts)


@pytest.mark.parametrize("inputs", [1, 31, 513, 1100])
@pytest.mark.parametrize("outputs", [1, 9, 64])
def test_any_shape(inputs: int, outputs: int) -> None:
    check(inputs, outputs, norm=True, residual=True, ends=[0, 1], rank=3)


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e6])
def test_rows_of_nothing_and_of_extreme_numbers(size: float) -> None:
    check(96, 40, norm=True, size=size)
    check(96, 40, residual=True, size=size)


def test_a_row_in_the_plain_models_place_gets_nothing_from_the_others() -> None:
    x, weight = numbers(1, 64), numbers(8, 64, seed=1)
    a, b = numbers(2, 64, 4, seed=2), numbers(2, 4, 8, seed=3)
    a[0], b[0], a[1] = 0.0, 0.0, torch.nan
    with torch.no_grad():
        found = FUSED_LINEAR.variants[TRITON].linear(
            x, weight, None, 0.0, False, None, (a, b, torch.tensor([1, 1]))
        )
    torch.testing.assert_close(found, x @ weight.t())


def test_it_suits_single_rows_in_inference_where_it_is_there() -> None:
    row, weight = numbers(1, 8), numbers(4, 8)
    with taken(FUSED_LINEAR, TRITON), torch.inference_mode():
        assert is_fused(row, weight)
        assert not is_fused(numbers(2, 8), weight)
        assert not is_fused(row, weight.new_empty(1 << 17, 8))
        assert not is_fused(row, lambda x: x)
    with taken(FUSED_LINEAR, TRITON), torch.no_grad():
        assert not is_fused(row, weight)  # the first pass of what is computed again
    with taken(FUSED_LINEAR, "reference"), torch.inference_mode():
        assert not is_fused(row, weight)
