"""Products with packed matrices against the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu import ops


def matrix(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(torch.bfloat16)


CPU = torch.device("cpu")
packing = ops.packing_for(torch.bfloat16, CPU)
needs_packing = pytest.mark.skipif(
    packing is None, reason="this processor has no bf16 products of its own"
)


@needs_packing
@pytest.mark.parametrize("rows", [0, 1, 2, 8, 63, 300])
@pytest.mark.parametrize("shape", [(128, 64), (10, 32), (200, 96)])
def test_product(shape: tuple[int, int], rows: int) -> None:
    weight, x = matrix(*shape), matrix(rows, shape[1], seed=1)
    assert packing is not None
    got = packing.pack(weight)(x)
    expected = torch.nn.functional.linear(x.float(), weight.float())
    assert got.dtype == torch.bfloat16
    assert got.shape == expected.shape
    # One rounding of the sum to bf16: half a step is 2^-9.
    assert torch.allclose(got.float(), expected, rtol=2**-8, atol=1e-3)


@needs_packing
def test_rows_that_are_not_contiguous() -> None:
    weight, x = matrix(48, 32), matrix(20, 64, seed=1)
    assert packing is not None
    packed = packing.pack(weight)
    assert torch.equal(packed(x[::2, :32]), packed(x[::2, :32].contiguous()))


def test_there_is_no_packed_form_of_fp32() -> None:
    assert ops.packing_for(torch.float32, CPU) is None


base_packing = ops.base_packing_for(torch.bfloat16, CPU)


@pytest.mark.skipif(base_packing is None, reason="this processor has no bf16 products of its own")
@pytest.mark.parametrize("keeps_plain", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 63, 300])
def test_a_base_is_packed_for_the_gradient_as_well(rows: int, keeps_plain: bool) -> None:
    assert base_packing is not None
    weight = matrix(200, 96)
    packed = base_packing(weight, keeps_plain=keeps_plain)
    # Every other row, as gradients may come.
    x, dy = matrix(2 * rows, 96, seed=1)[::2], matrix(2 * rows, 200, seed=2)[::2]
    x.requires_grad_()
    y = packed(x)
    y.backward(dy)
    assert x.grad is not None
    pairs = ((y, x @ weight.t()), (x.grad, dy @ weight), (packed.gradient(dy), dy @ weight))
    for ours, plain in pairs:
        assert torch.allclose(ours.float(), plain.float(), rtol=2**-7, atol=2e-3 * 200**0.5)


def test_there_is_no_packed_base_of_fp32() -> None:
    assert ops.base_packing_for(torch.float32, CPU) is None
