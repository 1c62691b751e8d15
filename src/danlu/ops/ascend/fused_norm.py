"""RMS norm in one kernel forward and one backward, on the kernel's own inverse.

For answers another adds first: torch_npu has no gradient of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.rms_norm import NormPasses


def _forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y: Tensor = torch.ops.npu.npu_rms_norm(x, weight, epsilon=eps)[0]
    return y


def norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of input and weight; the inverse is computed again, not kept."""
    inverse = torch.ops.npu.npu_rms_norm(x, weight, epsilon=eps)[1]
    dx, dw = torch.ops.npu.npu_rms_norm_backward(grad, x, weight, inverse)
    return dx, dw.to(weight.dtype) if with_weight else None  # the kernel's dw is fp32


def add_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the norm of x + y, and x + y. x, y: [T, size]; weight: [size]."""
    n, _inverse, total = torch.ops.npu.npu_add_rms_norm(x, y, weight, epsilon=eps)
    return n, total


NORM = NormPasses(_forward, norm_backward)
