"""Cross-entropy over logits as they are: read once forward, turned into their gradient in place.

A program holds a row, a piece of the vocabulary at a time, with a running maximum and sum (Milakov
and Gimelshein 2018). No copy in fp32 is made, and nothing is gathered or scattered.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _WARPS = 4096, 8


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """See `ops.cross_entropy_sum`; the backward pass writes its result into the logits."""
    return _CrossEntropy.apply(logits, targets)  # type: ignore[no-any-return, no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        losses = logits.new_empty(len(logits), dtype=torch.float32)
        log_sums = torch.empty_like(losses)
        if len(logits):
            _forward_kernel[(len(logits),)](
                *(logits, targets, losses, log_sums, logits.stride(0), logits.shape[1]),
                BLOCK=_BLOCK,
                num_warps=_WARPS,
            )
        ctx.save_for_backward(targets, log_sums)
        # Not saved: torch would refuse a tensor that was written into, as the backward pass does.
        ctx.logits = logits.detach()
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        targets, log_sums = ctx.saved_tensors
        logits, ctx.logits = ctx.logits, None
        if len(logits):
            grid = (len(logits), triton.cdiv(logits.shape[1], _BLOCK))
            _backward_kernel[grid](
                *(logits, targets, log_sums, grad, logits.stride(0), logits.shape[1]),
                BLOCK=_BLOCK,
                num_warps=_WARPS,
            )
        return logits, None


@triton.jit
def _forward_kernel(logits, targets, losses, log_sums, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    largest = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        places = start + tl.arange(0, BLOCK)
        found = tl.load(logits + places, mask=places < size, other=float("-inf")).to(tl.float32)
        now = tl.maximum(largest, found)
        # Where all so far is -inf, there is nothing to scale; -inf - -inf would be NaN.
        base = tl.where(now == float("-inf"), 0.0, now)
        total = total * tl.exp(largest - base) + tl.exp(found - base)
        largest = now
    top = tl.max(largest, axis=0)
    log_sum = top + tl.log(tl.sum(total * tl.exp(largest - top), axis=0))
    target = tl.load(targets + row)
    tl.store(log_sums + row, log_sum)
    tl.store(losses + row, log_sum - tl.load(logits + target).to(tl.float32))


@triton.jit
def _backward_kernel(logits, targets, log_sums, grad, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    here = logits + row * stride + places
    logit = tl.load(here, mask=inside, other=float("-inf")).to(tl.float32)
    probability = tl.exp(logit - tl.load(log_sums + row))
    wanted = tl.where(places == tl.load(targets + row), 1.0, 0.0)
    tl.store(here, (probability - wanted) * tl.load(grad), mask=inside)
