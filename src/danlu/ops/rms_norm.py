"""RMS norm (Zhang and Sennrich 2019) that saves nothing for the backward pass but its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danlu.ops import reference
from danlu.ops.choice import Operation, example, twin_gradients


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector to unit root mean square. x: [..., size]; weight: [size], dtype of x."""
    if not torch.is_grad_enabled():
        return RMS_NORM.on(x.device).forward(x, weight, eps)
    return _RmsNorm.apply(x, weight, eps)  # type: ignore[no-any-return, no-untyped-call]


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, *, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of input and weight, in their dtypes; shapes as in the forward pass."""
    return RMS_NORM.on(x.device).backward(grad, x, weight, eps, with_weight)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return RMS_NORM.on(x.device).forward(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx, dw = rms_norm_backward(grad, x, weight, ctx.eps, with_weight=ctx.needs_input_grad[1])
        return dx, dw, None


class NormPasses(NamedTuple):
    """A variant: forward(x, weight, eps) and backward(grad, x, weight, eps, with_weight)."""

    forward: Callable[[Tensor, Tensor, float], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor | None]]


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute the norm. weight: of any shape that broadcasts to x."""
    x32 = x.float()
    return (x32 * _inverse_rms(x32, eps)).to(x.dtype).mul_(weight)


def norm_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, *, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the input's gradient in fp32, and what adds up to the weight's, [..., size] in fp32.

    With n = x * r the normed input and g = grad * weight: dx = r * (g - n * mean(g * n)).
    """
    x32 = x.float()
    inverse = _inverse_rms(x32, eps)
    n = x32 * inverse
    grad32 = grad.float()
    terms = grad32 * n if with_weight else None
    weighted = grad32 * weight.float()
    mean = (weighted * n).mean(-1, keepdim=True)
    return weighted.sub_(n.mul_(mean)).mul_(inverse), terms


def _inverse_rms(x32: Tensor, eps: float) -> Tensor:
    """1 / root mean square of each vector. x32: [..., size] in fp32 -> [..., 1]."""
    size = x32.shape[-1]
    norm = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
    return torch.rsqrt(norm.square_().div_(size).add_(eps))


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    dx, terms = norm_gradients(grad, x, weight, eps, with_weight=with_weight)
    dw = None if terms is None else terms.reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
    return dx.to(x.dtype), dw


def _twin_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    dx, dw = twin_gradients(reference.rms_norm, grad, (x, weight), eps)
    return dx, dw if with_weight else None


def _trial(passes: NormPasses, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    x, grad = (example(5, 3, 64, device=device, dtype=dtype, seed=seed) for seed in (0, 1))
    weight = example(64, device=device, dtype=dtype)
    dx, dw = passes.backward(grad, x, weight, 1e-6, True)
    assert dw is not None
    return [passes.forward(x, weight, 1e-6), dx, dw]


RMS_NORM = Operation(
    "rms_norm",
    {
        "torch": NormPasses(normed, _backward),
        "reference": NormPasses(reference.rms_norm, _twin_backward),
    },
    _trial,
)
