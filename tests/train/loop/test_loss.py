"""The chunked head gives the loss and gradients of the whole product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from danlu.model.qwen3 import plain_linear
from danlu.train.loop.loss import loss_backward, token_losses
from tests.helpers.models.tiny_model import tiny_model


@pytest.mark.parametrize("tied", [True, False])
def test_chunks_equal_the_whole(tied: bool) -> None:
    config, model = tiny_model(tie_word_embeddings=tied)
    model.requires_grad_(True)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(37, config.hidden_size, generator=generator).requires_grad_(True)
    targets = torch.randint(0, config.vocab_size, (37,), generator=generator)
    logits = plain_linear(model.head, "lm_head", hidden)
    expected = F.cross_entropy(logits, targets)
    weights = [hidden, model.head.lm_head, model.head.norm]
    gradients = torch.autograd.grad(expected, weights)
    doubled = hidden * 1.0
    total = loss_backward(model, plain_linear, doubled, targets, divisor=37, chunk_rows=8)
    assert float(total) / 37 == pytest.approx(expected.item(), rel=1e-6)
    for tensor, gradient in zip(weights, gradients, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, atol=1e-6, rtol=1e-5)
    alone = token_losses(model, plain_linear, hidden.detach(), targets, chunk_rows=8)
    torch.testing.assert_close(alone, F.cross_entropy(logits, targets, reduction="none").detach())
