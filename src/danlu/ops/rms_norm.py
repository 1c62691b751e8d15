"""RMS norm (Zhang and Sennrich 2019) that saves nothing for the backward pass but its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _inverse_rms(x32: Tensor, eps: float) -> Tensor:
    """1 / root mean square of each vector. x32: [..., size] in fp32 -> [..., 1]."""
    size = x32.shape[-1]
    norm = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
    return torch.rsqrt(norm.square_().div_(size).add_(eps))


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x32 = x.float()
    return (x32 * _inverse_rms(x32, eps)).to(x.dtype).mul_(weight)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _normed(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx, dw = rms_norm_backward(grad, x, weight, ctx.eps, with_weight=ctx.needs_input_grad[1])
        return dx, dw, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector to unit root mean square. x: [..., size]; weight: [size], dtype of x."""
    if not torch.is_grad_enabled():
        return _normed(x, weight, eps)
    return _RmsNorm.apply(x, weight, eps)  # type: ignore[no-any-return, no-untyped-call]


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, *, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of input and weight, in their dtypes; shapes as in the forward pass.

    With n = x * r the normed input and g = grad * weight: dx = r * (g - n * mean(g * n)).
    """
    x32 = x.float()
    inverse = _inverse_rms(x32, eps)
    normed = x32 * inverse
    grad32 = grad.float()
    dw = None
    if with_weight:
        size = x.shape[-1]
        dw = (grad32 * normed).reshape(-1, size).sum(0).to(weight.dtype)
    weighted = grad32 * weight.float()
    mean = (weighted * normed).mean(-1, keepdim=True)
    dx = weighted.sub_(normed.mul_(mean)).mul_(inverse)
    return dx.to(x.dtype), dw
