"""int8 and int4 products of few rows in Triton: any rows, tails, splits, extreme weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.device.variants import TRITON
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.quantized import multiplied, quantized_in
from danlu.ops.nvidia.frozen import few_bits_kernels, few_bits_words
from tests.helpers.models.few_bits import OPERATIONS, floats_of

SHARE = {torch.float32: 1e-5, torch.bfloat16: 0.01, torch.float16: 0.002}
CLOSE = {"rtol": 0.02, "atol": 0.05}
DTYPES = pytest.mark.parametrize("dtype", SHARE, ids=str)
BITS = pytest.mark.parametrize("bits", [8, 4])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(bits: int, name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return OPERATIONS[bits].variants[name].linear


def stored(bits: int, weight: Tensor, name: str = TRITON) -> tuple[Tensor, Tensor]:
    return quantized_in(OPERATIONS[bits].variants[name], weight)


def check(bits: int, x: Tensor, weight: Tensor) -> None:
    weight = weight.to(x.dtype)
    found = product(bits, TRITON)(x, *stored(bits, weight))
    values, scales = stored(bits, weight, "reference")
    # In tiles there is filler behind the last output.
    expected = product(bits, "reference")(x.float(), values, scales.float())[:, : len(weight)]
    assert (found.dtype, found.shape) == (x.dtype, expected.shape)
    error = (found.float() - expected).abs().max()
    assert error <= SHARE[x.dtype] * expected.abs().max(), error


@DTYPES
@BITS
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_few_rows(bits: int, rows: int, dtype: torch.dtype) -> None:
    check(bits, numbers(rows, 96).to(dtype), numbers(100, 96, seed=1))


@BITS
@pytest.mark.parametrize("rows", [20, 64])
@pytest.mark.parametrize(("is_blackwell", "outputs"), [(True, 32), (False, 64)])
def test_sums_stay_in_registers_where_others_would_lose_products(
    bits: int, is_blackwell: bool, outputs: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a B200 Triton before 3.9 loses some where a loop adds two, and a sum is of 64 outputs."""
    monkeypatch.setattr(few_bits_kernels, "has_tensor_memory", lambda: is_blackwell)
    assert few_bits_kernels.most_outputs() == outputs
    check(bits, numbers(rows, 672).bfloat16(), numbers(100, 672, seed=1))


@BITS
@pytest.mark.parametrize("rows", [3, 10, 20])
@pytest.mark.parametrize("most", [2, 8])
@pytest.mark.parametrize("inputs", [32, 160, 672], ids=str)
def test_inputs_that_are_no_multiple_of_what_is_read_at_once(
    bits: int, inputs: int, most: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_bits_kernels, "_MOST_SPLITS", most)
    monkeypatch.setattr(few_bits_kernels, "_MOST_WARPS", most)
    check(bits, numbers(rows, inputs).bfloat16(), numbers(40, inputs, seed=1))


@BITS
def test_rows_with_gaps_and_none(bits: int) -> None:
    wide = numbers(4, 200).bfloat16()
    check(bits, wide[:, 20:116], numbers(64, 96, seed=1))
    assert product(bits, TRITON)(
        wide[:0, :96], *stored(bits, numbers(64, 96).bfloat16())
    ).shape == (0, 64)


@BITS
@pytest.mark.parametrize("rows", [33, 64, 65])
def test_up_to_64_rows_are_read_as_they_are_stored(
    bits: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_floats = []
    plain = few_bits_words._pieces
    monkeypatch.setattr(few_bits_words, "_pieces", lambda *of: by_floats.append(1) or plain(*of))
    check(bits, numbers(rows, 64).bfloat16(), numbers(64, 64, seed=1))
    assert len(by_floats) == (rows == 65)


@BITS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_weight_is_the_float_that_many_rows_are_multiplied_with(
    bits: int, dtype: torch.dtype
) -> None:
    form, weight = OPERATIONS[bits].variants[TRITON], numbers(70, 64, seed=1).to(dtype)
    weight[:, ::32] = torch.linspace(-3, 3, 70)[:, None].to(dtype)
    found = quantized_in(form, weight)
    (of_many,) = (floats for _rows, floats in form.floats(*found, dtype))
    product = form.linear(torch.eye(64).to(dtype), *found).t()
    if bits == 4:
        assert torch.equal(product, of_many)
    else:  # whole numbers are multiplied, and a sum by the scale
        torch.testing.assert_close(product, of_many, rtol=2**-8, atol=0)
        _values, scales = stored(bits, weight, "reference")
        assert torch.equal((product.float() / scales.float()[:, None]).round(), _values.float())


@BITS
def test_weights_that_are_all_alike_nothing_or_huge(bits: int) -> None:
    weight = numbers(64, 64, seed=1)
    weight[0], weight[1], weight[2] = 0.0, 3.0, 0.0
    weight[3] *= 1e4
    weight[2, 5] = 7.0
    for x in (numbers(2, 64), numbers(2, 64).bfloat16(), numbers(2, 64) * 1e-6):
        check(bits, x, weight)


@BITS
def test_it_is_the_same_every_time(bits: int) -> None:
    x, found = numbers(4, 640).bfloat16(), stored(bits, numbers(64, 640, seed=1).bfloat16())
    first, again = (product(bits, TRITON)(x, *found) for _time in range(2))
    assert torch.equal(first, again)


def test_words_hold_what_a_cpu_holds_in_tiles() -> None:
    weight = numbers(72, 96, seed=1)
    forms = [INT4_LINEAR.variants[name] for name in (TRITON, "reference")]
    words, tiles = (floats_of(form, quantized_in(form, weight)) for form in forms)
    torch.testing.assert_close(words, tiles[:72])


@BITS
def test_many_rows_are_multiplied_by_floats_and_gradients_go_through_them(bits: int) -> None:
    form, weight = OPERATIONS[bits].variants[TRITON], numbers(40, 64, seed=1)
    stored = quantized_in(form, weight)
    wide = floats_of(form, stored)
    x = numbers(70, 64).requires_grad_()
    y = multiplied(form, x, *stored)
    torch.testing.assert_close(y, x @ wide.t())
    (grad,) = torch.autograd.grad(y, x, numbers(70, 40, seed=2))
    torch.testing.assert_close(grad, numbers(70, 40, seed=2) @ wide)


def test_programs_fill_a_card_and_follow_from_shapes() -> None:
    """By outputs: Qwen3-8B's keys alone, o_proj, qkv_proj, gate_up_proj, the output matrix."""
    sizes = (1024, 4096, 6144, 24576, 151936)
    assert [few_bits_kernels.warps_of(size // 32) for size in sizes] == [8, 8, 8, 2, 2]
    assert [few_bits_kernels.splits_of(size // 64, 16) for size in sizes] == [16, 8, 5, 1, 1]
    assert few_bits_kernels.splits_of(4, 1) == 1


@BITS
@pytest.mark.parametrize("rows", [1, 12, 40, 65])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_what_is_added_is_added_once(bits: int, rows: int, dtype: torch.dtype) -> None:
    """In the kernel of few rows, behind the splits of more, and where floats are multiplied."""
    form, x = OPERATIONS[bits].variants[TRITON], numbers(rows, 672).to(dtype)
    found = quantized_in(form, numbers(40, 672, seed=1).to(dtype))
    residual = 30 * numbers(rows, 40, seed=2).to(dtype)
    kept = residual.clone()
    assert form.added is not None
    expected = form.linear(x, *found).float() + residual.float()
    error = (form.added(x, *found, residual).float() - expected).abs().max()
    assert error <= SHARE[dtype] * expected.abs().max()
    assert torch.equal(residual, kept)
    wide = torch.cat((residual, residual), dim=1)
    assert torch.equal(form.added(x, *found, wide[:, :40]), form.added(x, *found, residual))


@BITS
def test_rows_of_another_dtype_than_the_scales_are_multiplied_by_floats(bits: int) -> None:
    form, weight = OPERATIONS[bits].variants[TRITON], numbers(40, 64, seed=1)
    found, x = quantized_in(form, weight), numbers(3, 64).bfloat16()
    wide = floats_of(form, found)
    torch.testing.assert_close(form.linear(x, *found).float(), x.float() @ wide.t(), **CLOSE)
