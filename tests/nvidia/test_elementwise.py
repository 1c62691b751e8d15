"""Norms, rotation and swiglu in Triton: shapes, tails, strides, extreme values."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from danlu.device.variants import TRITON
from danlu.ops.rms_norm import RMS_NORM, NormPasses
from danlu.ops.rope import ROTATED_QKV, RotationPasses
from danlu.ops.swiglu import SWIGLU, SwigluPasses

NORM, NORM_TWIN = (RMS_NORM.variants[name] for name in (TRITON, "reference"))
GATING, GATING_TWIN = (SWIGLU.variants[name] for name in (TRITON, "reference"))
ROTATION, ROTATION_TWIN = (ROTATED_QKV.variants[name] for name in (TRITON, "reference"))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).to(dtype)


def agree(got: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    """Equal to a few roundings of the largest number of each; both None, or neither."""
    for g, e in zip(got, expected, strict=True):
        assert (g is None) == (e is None)
        if g is None or e is None or not e.numel():
            continue
        assert (g.dtype, g.shape) == (e.dtype, e.shape)
        share = 1e-5 if e.dtype == torch.float32 else 2 * torch.finfo(e.dtype).eps
        error = (g.float() - e.float()).abs().max()
        assert error <= share * e.float().abs().max().clamp(min=1e-6), error


def check_norm(x: Tensor, grad: Tensor, weight: Tensor, *, with_weight: bool = True) -> None:
    def passes(variant: NormPasses) -> list[Tensor | None]:
        return [
            variant.forward(x, weight, 1e-6),
            *variant.backward(grad, x, weight, 1e-6, with_weight),
        ]

    agree(passes(NORM), passes(NORM_TWIN))


@DTYPES
@pytest.mark.parametrize("with_weight", [True, False])
@pytest.mark.parametrize(
    "shape", [(1, 8), (3, 64), (5, 1000), (300, 96), (2, 3, 128), (2, 5120)], ids=str
)
def test_norms(shape: tuple[int, ...], with_weight: bool, dtype: torch.dtype) -> None:
    x, grad = (numbers(*shape, dtype=dtype, seed=seed) for seed in (1, 2))
    check_norm(x, grad, numbers(shape[-1], dtype=dtype), with_weight=with_weight)


@DTYPES
def test_norms_of_rows_with_gaps_and_of_none(dtype: torch.dtype) -> None:
    merged = numbers(7, 300, dtype=dtype)
    weight = numbers(100, dtype=dtype, seed=1)
    check_norm(merged[:, 50:150], merged[:, 200:], weight)
    check_norm(merged[:0, :100], merged[:0, :100], weight, with_weight=False)


def test_gradients_that_are_one_number_seen_many_times() -> None:
    """As the sum of an output leaves them."""
    one = torch.tensor(0.5).expand(3, 64)
    check_norm(numbers(3, 64, dtype=torch.float32), one, torch.ones(64))
    check_gating(numbers(3, 128, dtype=torch.float32), one)
    qkv = numbers(3, 4 * 16, dtype=torch.float32)
    gradients = [torch.tensor(0.5).expand(3, count, 16) for count in (2, 1, 1)]
    check_rotation(qkv, gradients, 1, with_weights=True)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e4], ids=str)
def test_norms_of_tiny_and_of_huge_numbers(scale: float) -> None:
    x = numbers(4, 128, dtype=torch.float32, scale=scale)
    check_norm(x, numbers(4, 128, dtype=torch.float32, seed=1), torch.ones(128))
    check_norm(torch.zeros(4, 128), x, torch.ones(128))


def check_gating(gate_up: Tensor, grad: Tensor) -> None:
    def passes(variant: SwigluPasses) -> list[Tensor]:
        return [variant.forward(gate_up), variant.backward(grad, gate_up)]

    agree(passes(GATING), passes(GATING_TWIN))


@DTYPES
@pytest.mark.parametrize("size", [1, 96, 1023, 3072])
def test_swiglu(size: int, dtype: torch.dtype) -> None:
    check_gating(numbers(3, 2 * size, dtype=dtype), numbers(3, size, dtype=dtype, seed=1))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # as intended: 1 / inf
def test_swiglu_of_rows_with_gaps_of_none_and_of_extreme_numbers() -> None:
    wide = numbers(5, 300, dtype=torch.bfloat16)
    check_gating(wide[:, 20:220], wide[:, 200:])
    check_gating(wide[:0, :200], wide[:0, :100])
    gate_up = torch.tensor([[-90.0, 90.0, 0.0, 2.0, -3.0, 1e4]])
    check_gating(gate_up, torch.ones(1, 3))


def check_rotation(
    qkv: Tensor, gradients: Sequence[Tensor], num_kv_heads: int, *, with_weights: bool
) -> None:
    tokens, head_dim = len(qkv), gradients[0].shape[2]
    norms = [numbers(head_dim, dtype=qkv.dtype, seed=seed) for seed in (4, 5)]
    angles = numbers(tokens, head_dim // 2, dtype=torch.float32, seed=6)
    cos, sin = (part.to(qkv.dtype) for part in (angles.cos(), angles.sin()))
    arguments = (qkv, *norms, 1e-6, cos, sin, num_kv_heads)

    def passes(variant: RotationPasses) -> list[Tensor | None]:
        return [
            *variant.forward(*arguments),
            *variant.backward(gradients, arguments, with_weights),
        ]

    agree(passes(ROTATION), passes(ROTATION_TWIN))


@DTYPES
@pytest.mark.parametrize("with_weights", [True, False])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "head_dim"),
    [(1, 1, 1, 16), (7, 4, 2, 64), (3, 8, 8, 128), (5, 2, 2, 48)],
)
def test_rotation(
    tokens: int, heads: int, kv_heads: int, head_dim: int, with_weights: bool, dtype: torch.dtype
) -> None:
    qkv = numbers(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    gradients = [
        numbers(tokens, count, head_dim, dtype=dtype, seed=count)
        for count in (heads, kv_heads, kv_heads)
    ]
    check_rotation(qkv, gradients, kv_heads, with_weights=with_weights)


def test_rotation_of_more_tokens_than_addends_of_the_norms_gradients() -> None:
    qkv = numbers(150, 4 * 16, dtype=torch.float32)
    gradients = [numbers(150, count, 16, dtype=torch.float32, seed=count) for count in (2, 1, 1)]
    check_rotation(qkv, gradients, 1, with_weights=True)


def test_rotation_takes_gradients_as_attention_leaves_them() -> None:
    qkv = numbers(6, 8 * 32, dtype=torch.bfloat16)
    dq = numbers(4, 6, 32, dtype=torch.bfloat16, seed=1).transpose(0, 1)
    joined = numbers(6, 4, 32, dtype=torch.bfloat16, seed=2)
    check_rotation(qkv, [dq, joined[:, ::2], joined[:, 1::2]], 2, with_weights=True)
