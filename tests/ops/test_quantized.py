"""int8 and int4 weights: the products against their twins, and how far a weight is from its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu import ops
from danlu.ops import reference
from danlu.ops.frozen import int4, quantized

# Half a bf16 step is 2^-9 of a number, a sum in bf16 has a few of those; in fp32 the order differs.
SHARE = {torch.float32: 5e-6, torch.bfloat16: 0.02}
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"]
)
# Below and above what the kernels are used for, and none.
ROWS = (0, 1, quantized.INT8_KERNEL_ROWS + 1, int4.INT4_KERNEL_ROWS, 2 * 48 + 1)
# A whole number of tiles of outputs, less than one, some more.
SHAPES = ((128, 64), (10, 32), (200, 96))


def matrix(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert got.shape == expected.shape
    if got.numel():
        error = (got.float() - expected.float()).abs().max().item()
        assert error <= SHARE[dtype] * max(expected.abs().max().item(), 1.0)


@both_dtypes
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_product(shape: tuple[int, int], rows: int, dtype: torch.dtype) -> None:
    x = matrix(rows, shape[1], dtype=dtype, seed=1)
    values, scales = ops.quantize_int8(matrix(*shape, dtype=dtype))
    check(ops.int8_linear(x, values, scales), reference.int8_linear(x, values, scales), dtype)


@both_dtypes
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_product(shape: tuple[int, int], rows: int, dtype: torch.dtype) -> None:
    x = matrix(rows, shape[1], dtype=dtype, seed=1)
    packed, scales_and_zeros = ops.quantize_int4(matrix(*shape, dtype=dtype))
    expected = reference.int4_linear(x, packed, scales_and_zeros)
    check(ops.int4_linear(x, packed, scales_and_zeros), expected, dtype)
    assert not expected[:, shape[0] :].any(), "outputs that only fill a tile are not zero"


@both_dtypes
def test_pieces_of_a_large_matrix_fit_together(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x = matrix(1000, 96, dtype=dtype), matrix(60, 96, dtype=dtype, seed=1)
    whole8, whole4 = ops.quantize_int8(weight), ops.quantize_int4(weight)
    monkeypatch.setattr(quantized, "PIECE", 96 * 70)
    monkeypatch.setattr(int4, "PIECE", 96 * 70)
    monkeypatch.setattr(quantized, "QUANTIZED_AT_ONCE", 96 * 70)
    monkeypatch.setattr(int4, "QUANTIZED_AT_ONCE", 96 * 70)
    for whole, pieces in ((whole8, ops.quantize_int8(weight)), (whole4, ops.quantize_int4(weight))):
        assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
    check(ops.int8_linear(x, *whole8), reference.int8_linear(x, *whole8), dtype)
    check(ops.int4_linear(x, *whole4), reference.int4_linear(x, *whole4), dtype)


@both_dtypes
@pytest.mark.parametrize("bits", [8, 4])
def test_the_gradient_of_the_input_is_that_of_the_twin(
    bits: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "PIECE", 96 * 70)
    monkeypatch.setattr(int4, "PIECE", 96 * 70)
    weight = matrix(200, 96, dtype=dtype)
    quantize = ops.quantize_int8 if bits == 8 else ops.quantize_int4
    stored = quantize(weight)
    gradients = []
    for product in (
        ops.int8_linear if bits == 8 else ops.int4_linear,
        reference.int8_linear if bits == 8 else reference.int4_linear,
    ):
        x = matrix(7, 96, dtype=dtype, seed=1).requires_grad_()
        y = product(x, *stored)
        y.backward(matrix(*y.shape, dtype=dtype, seed=2))
        assert x.grad is not None
        gradients.append(x.grad)
    check(*gradients, dtype)


def identity(width: int, dtype: torch.dtype) -> Tensor:
    """What shows the weights themselves, transposed."""
    return torch.eye(width, dtype=dtype)


@both_dtypes
def test_int8_weights_are_within_half_a_step(dtype: torch.dtype) -> None:
    weight = matrix(100, 64, dtype=dtype)
    values, scales = ops.quantize_int8(weight)
    steps = weight.abs().amax(dim=1, keepdim=True).float() / 127
    error = (reference.int8_linear(identity(64, torch.float32), values, scales).t() - weight).abs()
    # Where the scale was rounded down, the largest weight is cut off at 127: at most 127 * 2^-9.
    slack = 127 * 2**-9 if dtype == torch.bfloat16 else 1e-3
    assert (error <= steps * (0.5 + slack)).all()


@both_dtypes
def test_int4_weights_are_within_half_a_step(dtype: torch.dtype) -> None:
    weight = matrix(100, 64, dtype=dtype)
    got = reference.int4_linear(identity(64, torch.float32), *ops.quantize_int4(weight))
    groups = weight.float().view(100, 2, 32)
    steps = (groups.amax(2, keepdim=True) - groups.amin(2, keepdim=True)) / 15
    error = (got[:, :100].t().view(100, 2, 32) - groups).abs()
    # Rounding scale and zero to bf16 moves each end by 2^-9 of the numbers, here up to 8 steps.
    slack = 16 * 2**-9 if dtype == torch.bfloat16 else 1e-3
    assert (error <= steps * (0.5 + slack)).all()


@both_dtypes
@pytest.mark.parametrize("value", [0.0, 1.5, -2.0])
def test_weights_that_are_all_alike(value: float, dtype: torch.dtype) -> None:
    weight = torch.full((64, 32), value, dtype=dtype)
    x = matrix(3, 32, dtype=dtype)
    expected = torch.nn.functional.linear(x, weight)
    for got in (
        ops.int8_linear(x, *ops.quantize_int8(weight)),
        ops.int4_linear(x, *ops.quantize_int4(weight)),
    ):
        assert torch.allclose(got.float(), expected.float(), rtol=0.02, atol=0.05)
