"""Cross-entropy in Triton: tails, strides, extreme logits, and that it works in place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.device.variants import TRITON
from danlu.ops.cross_entropy import CROSS_ENTROPY

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def both(logits: Tensor, targets: Tensor, factor: float = 1.0) -> list[list[Tensor]]:
    """Loss and gradient by the kernel and by the twin, in fp32."""
    found = []
    for name in (TRITON, "reference"):
        leaf = logits.detach().clone().requires_grad_()
        loss = CROSS_ENTROPY.variants[name](leaf * 1, targets)
        (gradient,) = torch.autograd.grad(loss * factor, [leaf])
        found.append([loss.detach(), gradient.float()])
    return found


def check(logits: Tensor, targets: Tensor, factor: float = 1.0) -> None:
    (loss, gradient), (expected, gradients) = both(logits, targets, factor)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected.float(), rtol=2e-5, atol=1e-6)
    rounding = torch.finfo(logits.dtype).eps
    assert (gradient - gradients).abs().max() <= 2 * max(rounding, 1e-6) * abs(factor)


@DTYPES
@pytest.mark.parametrize("size", [1, 300, 4096, 9001])
def test_rows_of_any_size(size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = (torch.randn(5, size, generator=generator) * 4).to(dtype)
    targets = torch.tensor([0, size - 1, size // 2, size // 3, 0])
    check(logits, targets, factor=0.25)


def test_likely_and_unlikely_targets_beside_huge_logits() -> None:
    logits = torch.zeros(4, 5000)
    logits[0, 17] = 3e4  # certain, and right
    logits[1, 17] = 3e4  # certain, and wrong
    logits[2] = -3e4  # all alike
    logits[3, 4096:] = -torch.inf  # impossible
    check(logits, torch.tensor([17, 18, 4999, 3]))


def test_what_is_not_finite_is_seen_by_whoever_asks() -> None:
    logits = torch.zeros(2, 300)
    logits[1, 5] = torch.nan
    (loss, gradient), _twin = both(logits, torch.tensor([0, 0]))
    assert loss.isnan()
    assert gradient[1].isnan().any()
    assert gradient[0].isfinite().all()


def test_the_gradient_takes_the_memory_of_the_logits() -> None:
    leaf = torch.randn(3, 300, requires_grad=True)
    logits = leaf * 1
    loss = CROSS_ENTROPY.variants[TRITON](logits, torch.tensor([1, 2, 3]))
    (gradient,) = torch.autograd.grad(loss, [logits])
    assert gradient.data_ptr() == logits.data_ptr()


def test_no_rows_lose_nothing() -> None:
    (loss, gradient), _twin = both(torch.zeros(0, 300), torch.zeros(0, dtype=torch.int64))
    assert loss == 0.0
    assert gradient.shape == (0, 300)
