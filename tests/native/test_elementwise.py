"""Norm, swiglu and rotation in C++ against the readable twins, and the roundings of torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu import ops
from danlu.device.variants import NATIVE
from danlu.ops import reference
from danlu.ops.rms_norm import RMS_NORM
from danlu.ops.rope import ROTATED_QKV
from danlu.ops.swiglu import SWIGLU
from tests.helpers.models.instruction_sets import each_isa
from tests.helpers.models.native import needs_library
from tests.helpers.models.variants import taken

__all__ = ["each_isa"]
pytestmark = [needs_library, pytest.mark.usefixtures("each_isa")]
# Half a step of bf16 is 0.2 %; gradients are rounded once, values up to three times.
SHARE = 0.01
Function = Callable[..., Tensor]


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(shape, generator=generator) * scale).bfloat16()


def check(ours: Function, twin: Function, tensors: list[Tensor]) -> None:
    """Compare value and gradients with those of the twin in fp32."""
    small = [tensor.clone().requires_grad_() for tensor in tensors]
    wide = [tensor.float().requires_grad_() for tensor in tensors]
    found, expected = ours(*small), twin(*wide)
    upstream = numbers(*found.shape, seed=9)
    found = [found, *torch.autograd.grad(found, small, upstream)]
    expected = [expected, *torch.autograd.grad(expected, wide, upstream.float())]
    for got, right in zip(found, expected, strict=True):
        assert got.dtype == torch.bfloat16
        most = max(right.abs().max().item(), 1e-3)
        torch.testing.assert_close(got.float(), right, rtol=SHARE, atol=SHARE * most)


@pytest.mark.parametrize("size", [1, 7, 16, 31, 33, 96, 1024, 1030])
@pytest.mark.parametrize("rows", [1, 5, 35])
def test_rms_norm(rows: int, size: int) -> None:
    with taken(RMS_NORM, NATIVE):
        check(
            lambda x, weight: ops.rms_norm(x, weight, 1e-6),
            lambda x, weight: reference.rms_norm(x, weight, 1e-6),
            [numbers(rows, size), numbers(size, seed=1)],
        )


@pytest.mark.parametrize("scale", [1e-18, 1e-3, 1e3, 1e18])
def test_rms_norm_of_very_small_and_very_large_numbers(scale: float) -> None:
    x, weight = numbers(9, 130, scale=scale), numbers(130, seed=1)
    found = RMS_NORM.variants[NATIVE].forward(x, weight, 1e-6)
    expected = RMS_NORM.variants["torch"].forward(x, weight, 1e-6)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)


def test_rms_norm_rounds_as_torchs_operations_do() -> None:
    """The normed numbers before they meet the weight, too: the models were trained so."""
    x, weight = numbers(64, 1024), numbers(1024, seed=1)
    ours, theirs = (RMS_NORM.variants[n].forward(x, weight, 1e-6) for n in (NATIVE, "torch"))
    assert (ours != theirs).float().mean().item() < 1e-3


def test_zeros_and_numbers_that_are_none() -> None:
    norm, weight = RMS_NORM.variants[NATIVE], torch.ones(40, dtype=torch.bfloat16)
    zeros = torch.zeros(3, 40, dtype=torch.bfloat16)
    assert not norm.forward(zeros, weight, 1e-6).any()
    assert norm.backward(weight.expand(3, 40), zeros, weight, 1e-6, False)[0].isfinite().all()
    for bad in (torch.nan, torch.inf):
        x = numbers(3, 40)
        x[1, 33] = bad
        y = norm.forward(x, weight, 1e-6)
        assert not y[1, 33].isfinite()
        assert y[[0, 2]].isfinite().all()
        gated = SWIGLU.variants[NATIVE].forward(x.repeat(1, 2))
        assert not gated[1, 33].isfinite()
        assert gated[[0, 2]].isfinite().all()


def test_a_norm_without_rows_and_one_that_lies_in_gaps() -> None:
    weight = numbers(48, seed=1)
    norm = RMS_NORM.variants[NATIVE]
    assert norm.forward(numbers(0, 48), weight, 1e-6).shape == (0, 48)
    merged = numbers(6, 96)
    found = norm.forward(merged[:, 48:], weight, 1e-6)
    assert torch.equal(found, norm.forward(merged[:, 48:].clone(), weight, 1e-6))


@pytest.mark.parametrize("size", [1, 8, 31, 64, 100, 3072])
@pytest.mark.parametrize("rows", [1, 9])
def test_swiglu(rows: int, size: int) -> None:
    with taken(SWIGLU, NATIVE):
        check(ops.swiglu, reference.swiglu, [numbers(rows, 2 * size, scale=3)])


def test_swiglu_far_from_zero() -> None:
    gate = torch.tensor([-3e38, -200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 200.0, 3e38])
    gate_up = torch.cat((gate, torch.ones(9)))[None].bfloat16()
    y = SWIGLU.variants[NATIVE].forward(gate_up)
    torch.testing.assert_close(y, SWIGLU.variants["torch"].forward(gate_up), rtol=0.01, atol=1e-6)
    dx = SWIGLU.variants[NATIVE].backward(torch.ones(1, 9, dtype=torch.bfloat16), gate_up)
    slope = torch.tensor([0, 0, 0, 0, 0.5, 1, 1, 1, 1])
    torch.testing.assert_close(dx[0, :9].float(), slope, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "head_dim"),
    [(1, 1, 1, 2), (9, 4, 2, 16), (33, 3, 1, 128), (20, 2, 2, 40)],
)
def test_rotated_qkv(tokens: int, heads: int, kv_heads: int, head_dim: int) -> None:
    tensors = [
        numbers(tokens, (heads + 2 * kv_heads) * head_dim),
        *(numbers(head_dim, seed=n) for n in (1, 2)),
    ]
    angles = torch.arange(tokens)[:, None] * torch.linspace(1, 0.01, head_dim // 2)[None, :]
    cos, sin = (part.bfloat16() for part in (angles.cos(), angles.sin()))

    def joined(rotated: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Function:
        return lambda *some: torch.cat(
            rotated(*some, 1e-6, cos.to(some[0].dtype), sin.to(some[0].dtype), kv_heads), dim=1
        )

    with taken(ROTATED_QKV, NATIVE):
        check(joined(ops.rotated_qkv), joined(reference.rotated_qkv), tensors)


def test_rotation_rounds_as_torchs_operations_do() -> None:
    qkv, norms = numbers(40, 8 * 128), [numbers(128, seed=n) for n in (1, 2)]
    angles = torch.arange(40)[:, None] * torch.linspace(1, 0.01, 64)[None, :]
    rest = (1e-6, angles.cos().bfloat16(), angles.sin().bfloat16(), 2)
    ours, theirs = (ROTATED_QKV.variants[n].forward(qkv, *norms, *rest) for n in (NATIVE, "as_one"))
    for got, right in zip(ours, theirs, strict=True):
        assert (got != right).float().mean().item() < 2e-3
