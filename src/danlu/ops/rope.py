"""QK-norm and rotary position embedding (RoPE, Su et al. 2021, half-split) as one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.ops.rms_norm import rms_norm, rms_norm_backward


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin of every position's angles, fp32 [tokens, head_dim / 2] each."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions.float()[:, None] * (theta ** -(exponents / head_dim))[None, :]
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2). x: [tokens, heads, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1).to(x.dtype), sin.unsqueeze(1).to(x.dtype)
    out = torch.empty_like(x)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    return out


class _NormRotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, cos, sin)
        ctx.eps = eps
        return _rotate(rms_norm(x, weight, eps), cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, cos, sin = ctx.saved_tensors
        # A rotation's transpose is the rotation by the opposite angle.
        turned_back = _rotate(grad, cos, -sin)
        dx, dw = rms_norm_backward(
            turned_back, x, weight, ctx.eps, with_weight=ctx.needs_input_grad[1]
        )
        return dx, dw, None, None, None


def norm_rotate(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """RMS-norm each head, then rotate it by its position.

    x: [tokens, heads, head_dim]; weight: [head_dim]; cos, sin: [tokens, head_dim / 2] fp32.
    """
    if not torch.is_grad_enabled():
        return _rotate(rms_norm(x, weight, eps), cos, sin)
    return _NormRotate.apply(x, weight, eps, cos, sin)  # type: ignore[no-any-return, no-untyped-call]
