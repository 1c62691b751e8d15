"""Cross-entropy: summed, where backward turns the saved fp32 logits into their gradient in place;
and per row, without a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from danlu.ops import reference
from danlu.ops.choice import Operation, example


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the negative log likelihoods. logits: [rows, vocab]; targets: [rows] -> fp32 scalar.

    The backward pass may run once only.
    """
    return CROSS_ENTROPY.on(logits.device)(logits, targets)


def cross_entropy_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log likelihoods. logits: [rows, vocab]; targets: [rows] -> fp32 [rows]."""
    logits32 = logits.float()
    picked = logits32.gather(1, targets[:, None]).squeeze(1)
    return logits32.logsumexp(dim=-1).sub_(picked)


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        # A copy also where the logits are fp32 already: the backward pass writes into it.
        logits32 = logits.to(torch.float32, copy=True)
        log_sum = logits32.logsumexp(dim=-1)
        picked = logits32.gather(1, targets[:, None]).squeeze(1)
        ctx.save_for_backward(logits32, log_sum, targets)
        ctx.dtype = logits.dtype
        return (log_sum - picked).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits32, log_sum, targets = ctx.saved_tensors
        probabilities = logits32.sub_(log_sum[:, None]).exp_()
        probabilities.scatter_add_(
            1, targets[:, None], probabilities.new_full((targets.shape[0], 1), -1.0)
        )
        return probabilities.mul_(grad).to(ctx.dtype), None


def _in_place(logits: Tensor, targets: Tensor) -> Tensor:
    return _CrossEntropySum.apply(logits, targets)  # type: ignore[no-any-return, no-untyped-call]


Variant = Callable[[Tensor, Tensor], Tensor]


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    logits = example(6, 300, device=device, dtype=dtype).requires_grad_()
    loss = variant(logits, torch.arange(0, 300, 50, device=device))
    return [loss, *torch.autograd.grad(loss, [logits])]


CROSS_ENTROPY: Operation[Variant] = Operation(
    "cross_entropy", {"in_place": _in_place, "reference": reference.cross_entropy_sum}, _trial
)
