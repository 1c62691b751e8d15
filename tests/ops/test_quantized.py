"""Weights in few bits on the CPU: every form, what it holds, its products and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from danlu.device.variants import NATIVE, REFERENCE
from danlu.ops import QuantizedWeight
from danlu.ops.choice import Operation
from danlu.ops.frozen import int4, nf4, quantized
from danlu.ops.frozen.nf4 import NF4_LINEAR
from danlu.ops.frozen.quantized import FewBitsForm, multiplied, quantized_in
from danlu.ops.native import native_bits
from danlu.ops.reference import NF4_LEVELS
from tests.helpers.models.few_bits import OPERATIONS, floats_of
from tests.helpers.models.native import needs_library

# Half a bf16 step is 2^-9 of a number, a sum in bf16 has a few of those; in fp32 the order differs.
SHARE = {torch.float32: 5e-6, torch.bfloat16: 0.02}
# The native kernels multiply numbers of 16 bits, of a group's largest.
NATIVE_SHARE = {torch.float32: 1e-4, torch.bfloat16: 0.005}
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"]
)
both_bits = pytest.mark.parametrize("bits", [8, 4])
# Below and above what aten's kernels are used for, and none.
ROWS = (0, 1, quantized.INT8_KERNEL_ROWS + 1, int4.INT4_KERNEL_ROWS, 2 * 48 + 1)
# A whole number of tiles of outputs, less than one, some more.
SHAPES = ((128, 64), (10, 32), (200, 96))


@pytest.fixture(params=["few_rows", "floats", REFERENCE, pytest.param(NATIVE, marks=needs_library)])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (int4, native_bits):
        monkeypatch.setattr(module, "PIECE", 96 * 70)
    for module in (quantized, nf4):
        monkeypatch.setattr(module, "piece_numbers", lambda kind: 96 * 70)
    for module in (quantized, nf4):
        monkeypatch.setattr(module, "quantized_at_once", lambda kind: 96 * 70)


def matrix(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def form_of(bits: int, name: str) -> FewBitsForm:
    return OPERATIONS[bits].variants[name]


def check(name: str, got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert got.shape == expected.shape
    if got.numel():
        error = (got.float() - expected.float()).abs().max().item()
        share = (NATIVE_SHARE if name == NATIVE else SHARE)[dtype]
        assert error <= share * max(expected.abs().max().item(), 1.0)


@both_dtypes
@both_bits
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_that_of_the_floats(
    name: str, bits: int, shape: tuple[int, int], rows: int, dtype: torch.dtype
) -> None:
    form, x = form_of(bits, name), matrix(rows, shape[1], dtype=dtype, seed=1)
    stored = quantized_in(form, matrix(*shape, dtype=dtype))
    expected = x.float() @ floats_of(form, stored).t()
    check(name, multiplied(form, x, *stored), expected, dtype)
    assert not expected[:, shape[0] :].any(), "outputs that only fill a tile are not zero"


@both_dtypes
@both_bits
def test_pieces_of_a_large_matrix_fit_together(
    name: str, bits: int, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    form, weight = form_of(bits, name), matrix(1000, 96, dtype=dtype)
    whole = quantized_in(form, weight)
    floats = floats_of(form, whole)
    request.getfixturevalue("small_pieces")
    pieces = quantized_in(form, weight)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
    assert torch.equal(floats_of(form, pieces), floats)
    x = matrix(60, 96, dtype=dtype, seed=1)
    check(name, multiplied(form, x, *whole), x.float() @ floats.t(), dtype)


@both_dtypes
@both_bits
def test_the_gradient_of_the_input_is_that_of_the_floats(
    name: str, bits: int, dtype: torch.dtype, small_pieces: None
) -> None:
    form = form_of(bits, name)
    stored = quantized_in(form, matrix(200, 96, dtype=dtype))
    x = matrix(7, 96, dtype=dtype, seed=1).requires_grad_()
    y = multiplied(form, x, *stored)
    upstream = matrix(*y.shape, dtype=dtype, seed=2)
    y.backward(upstream)
    assert x.grad is not None
    check("floats", x.grad, upstream.float() @ floats_of(form, stored), dtype)


@both_dtypes
def test_int8_weights_are_within_half_a_step(name: str, dtype: torch.dtype) -> None:
    form, weight = form_of(8, name), matrix(100, 192, dtype=dtype)
    error = (floats_of(form, quantized_in(form, weight))[:100] - weight).abs()
    groups = weight.float().unflatten(1, (-1, 32 if name == NATIVE else 192))
    steps = groups.abs().amax(dim=2, keepdim=True) / 127
    # Where the scale was rounded down, the largest weight is cut off at 127: at most 127 * 2^-9.
    slack = 127 * 2**-9 if dtype == torch.bfloat16 or name == NATIVE else 1e-3
    assert (error.view(groups.shape) <= steps * (0.5 + slack)).all()


@both_dtypes
def test_int4_weights_are_within_half_a_step(name: str, dtype: torch.dtype) -> None:
    if name == NATIVE:
        pytest.skip("it looks for the least squared error: tests/native/test_bits.py")
    form, weight = form_of(4, name), matrix(100, 64, dtype=dtype)
    groups = weight.float().view(100, 2, 32)
    steps = (groups.amax(2, keepdim=True) - groups.amin(2, keepdim=True)) / 15
    error = (floats_of(form, quantized_in(form, weight))[:100].view(100, 2, 32) - groups).abs()
    # Rounding scale and zero to bf16 moves each end by 2^-9 of the numbers, here up to 8 steps.
    slack = 16 * 2**-9 if dtype == torch.bfloat16 else 1e-3
    assert (error <= steps * (0.5 + slack)).all()


@both_dtypes
@both_bits
@pytest.mark.parametrize("value", [0.0, 1.5, -2.0])
def test_weights_that_are_all_alike(name: str, bits: int, value: float, dtype: torch.dtype) -> None:
    form, weight = form_of(bits, name), torch.full((64, 32), value, dtype=dtype)
    x = matrix(3, 32, dtype=dtype)
    got = multiplied(form, x, *quantized_in(form, weight))
    expected = torch.nn.functional.linear(x, weight)
    assert torch.allclose(got.float(), expected.float(), rtol=0.02, atol=0.05)


@both_dtypes
@pytest.mark.parametrize("quantization", ["int8", "int4", "nf4"])
def test_a_weight_gives_the_gradient_of_what_it_multiplied(
    quantization: Literal["int8", "int4", "nf4"], dtype: torch.dtype, small_pieces: None
) -> None:
    """As dequantised floats give it, whether or not filler stands behind the outputs."""
    for outputs in (200, 70):
        like = matrix(outputs, 128, dtype=dtype)
        weight = QuantizedWeight(like, quantization, torch.device("cpu"))
        weight.fill(like)
        floats = floats_of(weight.form, (weight.values, weight.scales))[:outputs, :128]
        dy = matrix(7, outputs, dtype=dtype, seed=2)
        check("floats", weight.gradient(dy), dy.float() @ floats, dtype)
        x = matrix(7, 128, dtype=dtype, seed=3).requires_grad_()
        weight(x).backward(dy)
        assert x.grad is not None
        assert torch.equal(x.grad, weight.gradient(dy))


def nf4_floats_of(weight: Tensor) -> Tensor:
    """The nearest level of every number, by looking at all of them."""
    groups = weight.float().unflatten(1, (-1, 64))
    scales = groups.abs().amax(dim=2, keepdim=True).to(weight.dtype).float()
    levels = torch.tensor(NF4_LEVELS)
    nearest = (groups[..., None] / scales[..., None].clamp(min=1e-30) - levels).abs().argmin(dim=3)
    return (levels[nearest] * scales).flatten(1)


@both_dtypes
@pytest.mark.parametrize("variant", ["floats", REFERENCE])
def test_nf4_holds_the_nearest_levels(variant: str, dtype: torch.dtype, small_pieces: None) -> None:
    form, weight = NF4_LINEAR.variants[variant], matrix(300, 192, dtype=dtype)
    weight[7] = 0.0
    weight[8] = -2.5
    stored = quantized_in(form, weight)
    assert stored[0].nbytes == weight.numel() // 2
    floats = floats_of(form, stored)
    torch.testing.assert_close(floats, nf4_floats_of(weight))
    assert (floats[7] == 0).all()
    assert (floats[8] == -2.5).all()
    x = matrix(5, 192, dtype=dtype, seed=1)
    check("floats", multiplied(form, x, *stored), x.float() @ floats.t(), dtype)


@pytest.mark.parametrize("operation", OPERATIONS.values())
@pytest.mark.parametrize("wrong", ["residual", "prompt"])
def test_the_probe_sees_what_only_decoding_or_a_prompt_calls(
    operation: Operation[FewBitsForm], wrong: str
) -> None:
    right = operation.variants[REFERENCE]

    def linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        y = right.linear(x, values, scales)
        return 2 * y if wrong == "prompt" and len(x) > 64 else y

    def added(x: Tensor, values: Tensor, scales: Tensor, residual: Tensor) -> Tensor:
        y = linear(x, values, scales)
        return y if wrong == "residual" else y + residual

    cpu = torch.device("cpu")
    variants = operation.variants
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants, "fine", right._replace(added=torch_added(right)))
        patch.setitem(variants, "wrong", right._replace(linear=linear, added=added))
        assert operation._fault("fine", cpu) is None
        assert operation._fault("wrong", cpu) is not None


def torch_added(form: FewBitsForm) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """A product with what is added to it, in two operations."""
    return lambda x, values, scales, residual: form.linear(x, values, scales) + residual
