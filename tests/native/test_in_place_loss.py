"""Cross-entropy over bf16 logits in C++: the loss, and the gradient in the logits' place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops.native.in_place_loss import cross_entropy_sum
from tests.helpers.models.instruction_sets import each_isa
from tests.helpers.models.native import needs_library

__all__ = ["each_isa"]
pytestmark = [needs_library, pytest.mark.usefixtures("each_isa")]


def loss_and_gradient(
    logits: Tensor, targets: Tensor, factor: float = 1.0
) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = cross_entropy_sum(leaf * 1, targets)
    (gradient,) = torch.autograd.grad(loss * factor, [leaf])
    return loss.detach(), gradient


def check(logits: Tensor, targets: Tensor, factor: float = 1.0) -> None:
    wide = logits.float().requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="sum")
    (slope,) = torch.autograd.grad(expected * factor, [wide])
    loss, gradient = loss_and_gradient(logits, targets, factor)
    torch.testing.assert_close(loss, expected.detach(), rtol=2e-5, atol=1e-5)
    assert gradient.dtype == torch.bfloat16
    # One rounding: half a step of bf16.
    torch.testing.assert_close(gradient.float(), slope, rtol=0.004, atol=1e-7)


@pytest.mark.parametrize("words", [1, 5, 16, 33, 4096, 4097, 9000])
@pytest.mark.parametrize("rows", [1, 7])
def test_any_vocabulary(rows: int, words: int) -> None:
    generator = torch.Generator().manual_seed(words)
    logits = (torch.randn(rows, words, generator=generator) * 3).bfloat16()
    check(logits, torch.randint(words, (rows,), generator=generator), factor=0.37)


@pytest.mark.parametrize("at", [0, 4095, 4096, 8999])
def test_a_word_far_above_all_others(at: int) -> None:
    """The maximum may come in any block, before or behind what was added up so far."""
    logits = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1)).bfloat16()
    logits[0, at], logits[1, at] = 200.0, 3e4
    check(logits, torch.tensor([at, 17]))


def test_a_target_that_is_nearly_certain_keeps_its_gradient() -> None:
    """P is not rounded before the target's 1 is taken away."""
    logits = torch.zeros(1, 1000, dtype=torch.bfloat16)
    logits[0, 5] = 14.0  # a probability of 0.9992
    _loss, gradient = loss_and_gradient(logits, torch.tensor([5]))
    assert gradient[0, 5].item() == pytest.approx(-8.3e-4, rel=0.01)
    assert gradient.float().sum().item() == pytest.approx(0.0, abs=1e-5)


def test_words_that_are_forbidden_count_as_nothing() -> None:
    logits = torch.full((2, 5000), -torch.inf, dtype=torch.bfloat16)
    logits[:, [3, 4200]] = 1.0
    loss, gradient = loss_and_gradient(logits, torch.tensor([3, 4200]))
    assert loss.item() == pytest.approx(2 * 0.6931, rel=1e-4)
    assert gradient.float().abs().sum().item() == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_logit_that_is_no_number_is_seen(bad: float) -> None:
    logits = torch.zeros(3, 500, dtype=torch.bfloat16)
    logits[1, 300] = bad
    assert not cross_entropy_sum(logits, torch.tensor([1, 2, 3])).isfinite()


@pytest.mark.parametrize("target", [-100, -1, 500, 2**40])
def test_a_target_that_is_no_word_makes_the_loss_no_number(target: int) -> None:
    logits = torch.zeros(2, 500, dtype=torch.bfloat16)
    loss, gradient = loss_and_gradient(logits, torch.tensor([4, target]))
    assert loss.isnan()
    assert gradient[0].isfinite().all()


def test_the_gradient_takes_the_logits_memory() -> None:
    """That is what the plan counts on: no second array of rows times vocabulary."""
    logits = torch.randn(4, 1000).bfloat16().requires_grad_()
    product = logits * 1
    place = product.data_ptr()
    (gradient,) = torch.autograd.grad(
        cross_entropy_sum(product, torch.zeros(4, dtype=torch.int64)), [product]
    )
    assert gradient.data_ptr() == place


def test_no_rows() -> None:
    loss, gradient = loss_and_gradient(
        torch.zeros(0, 70, dtype=torch.bfloat16), torch.zeros(0, dtype=torch.int64)
    )
    assert loss.item() == 0
    assert gradient.shape == (0, 70)
