"""Products with fp8 weights: what is rounded, what stays finite, both directions, the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.ops import fp8_input_gradient, fp8_linear, multiplies_fp8, quantize_fp8, reference
from danlu.ops.choice import VARIABLE
from danlu.ops.frozen.fp8 import FP8

# Half a unit in the last place of three bits, as a share.
ROUNDING = 1 / 16


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_each_number_is_rounded_by_the_scale_of_its_row() -> None:
    x = numbers(5, 96)
    x[1] *= 1e4
    x[2] *= 1e-4
    values, scales = reference.quantized_rows(x)
    again = values.float() * scales[:, None]
    assert (values.dtype, scales.dtype) == (FP8, torch.float32)
    most = x.abs().amax(dim=1)
    torch.testing.assert_close(again.abs().amax(dim=1), most)
    # Below 2^-6 / 448 of the largest numbers are whole multiples of 2^-9 of the scale.
    least = scales[:, None] * 2**-10 * 1.001
    assert ((again - x).abs() <= torch.maximum(ROUNDING * 1.001 * x.abs(), least)).all()


def test_zeros_and_tiny_rows_stay_finite_and_what_is_not_stays_so() -> None:
    x = torch.zeros(5, 16)
    x[1, 3], x[2, 3], x[3, 3], x[4, 3] = 1e-38, 1e30, torch.inf, torch.nan
    y = reference.fp8_linear(x, *reference.quantized_rows(torch.eye(16)))
    assert (y[0] == 0).all()
    assert y[1].abs().max() <= 1e-30
    assert y[2, 3] == pytest.approx(1e30)
    assert not y[3].isfinite().any()
    assert not y[4, 3].isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_and_its_input_gradient_are_near_the_exact_ones(dtype: torch.dtype) -> None:
    weight, x, dy = numbers(48, 64), numbers(9, 64, seed=1), numbers(9, 48, seed=2)
    matrix = quantize_fp8(weight.to(dtype))
    with torch.no_grad():
        y, dx = fp8_linear(x.to(dtype), matrix), fp8_input_gradient(dy.to(dtype), matrix)
    assert (y.dtype, dx.dtype) == (dtype, dtype)
    for found, exact in ((y, x @ weight.t()), (dx, dy @ weight)):
        assert (found.float() - exact).norm() / exact.norm() < 0.05


def test_outputs_and_inputs_of_any_size_keep_their_own_scale() -> None:
    """A tensor's one scale would lose small outputs, and small inputs on the way back."""
    weight = numbers(32, 48)
    weight[5] *= 1e-6
    weight[:, 7] *= 1e-6
    matrix = quantize_fp8(weight)
    with torch.no_grad():
        y = fp8_linear(torch.eye(48)[:6], matrix)[:, 5]
        dx = fp8_input_gradient(torch.eye(32)[:4], matrix)[:, 7]
    assert (y - weight[5, :6]).abs().max() < 0.05 * weight[5].abs().max()
    assert (dx - weight[:4, 7]).abs().max() < 0.05 * weight[:, 7].abs().max()


def test_a_piece_at_a_time_is_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = numbers(80, 48).bfloat16()
    once = quantize_fp8(weight)
    monkeypatch.setattr("danlu.ops.frozen.fp8.PIECE", 48 * 7)
    for part, whole in zip(quantize_fp8(weight), once, strict=True):
        assert torch.equal(part.float(), whole.float())


def test_autograd_takes_the_same_gradient() -> None:
    matrix = quantize_fp8(numbers(32, 64))
    x, dy = numbers(5, 64, seed=1).requires_grad_(), numbers(5, 32, seed=2)
    y = fp8_linear(x, matrix)
    (dx,) = torch.autograd.grad(y, x, dy)
    with torch.no_grad():
        assert torch.equal(y, fp8_linear(x, matrix))
        assert torch.equal(dx, fp8_input_gradient(dy, matrix))


def test_the_twin_counts_as_fp8_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not multiplies_fp8(torch.device("cpu"))
    monkeypatch.setenv(VARIABLE, "fp8_linear=reference")
    assert multiplies_fp8(torch.device("cpu"))
