"""Attention as a card's fused kernel has it, called for each segment or for the whole batch.

It keeps inputs, outputs and a number a head and token; the outputs of several calls are joined in a
copy.

It computes on the host, so that the simulated device's memory sees what it takes and gives only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.ops.attention import Segments, each_segment


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Segments, is_joined: bool
    ) -> Tensor:
        ctx.segments = segments
        with torch.no_grad():
            out = sent(each_segment(q.cpu(), k.cpu(), v.cpu(), segments), q.device)
        normaliser = torch.empty(q.shape[:2], device=q.device)
        ctx.save_for_backward(q, k, v, out, normaliser)
        return out.clone() if is_joined else out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, _out, _normaliser = ctx.saved_tensors
        leaves = [part.cpu().requires_grad_() for part in (q, k, v)]
        with torch.enable_grad():
            value = each_segment(leaves[0], leaves[1], leaves[2], ctx.segments)
        found = torch.autograd.grad(value, leaves, grad.cpu())
        return *(sent(gradient, q.device) for gradient in found), None, None


def fused_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend inside each segment by a call each; see `danlu.ops.segment_attention`."""
    return _Fused.apply(q, k, v, segments, len(segments.lengths) > 1)  # type: ignore[no-any-return, no-untyped-call]


def packed_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend inside all segments by one call."""
    return _Fused.apply(q, k, v, segments, False)  # type: ignore[no-any-return, no-untyped-call]
