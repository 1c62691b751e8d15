"""A product with a weight matrix, and the residual stream that is added to it.

Where the residual is added decides how a 16-bit sum is rounded: by the product itself before it
rounds, which costs nothing on accelerators, or last, behind what an adapter adds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops import reference
from danlu.ops.choice import Operation, example


def begin_linear(
    x: Tensor, weight: Tensor, residual: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Multiply x [T, in] with weight [out, in]; return [T, out], and what is still to be added.

    residual: [T, out] or None; overwritten in inference mode. The result is the caller's own,
    to be added to in place.
    """
    if residual is None:
        return F.linear(x, weight), None
    return RESIDUAL.on(x.device)(x, weight, residual)


def end_linear(y: Tensor, residual: Tensor | None) -> Tensor:
    """Add what `begin_linear` has left, in place."""
    return y if residual is None else y.add_(residual)


def _last(x: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor | None]:
    return F.linear(x, weight), residual


def _in_product(x: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor | None]:
    if torch.is_inference_mode_enabled():
        return residual.addmm_(x, weight.t()), None  # otherwise the residual is copied first
    return torch.addmm(residual, x, weight.t()), None


def _twin(x: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor | None]:
    return reference.linear(x, weight, residual), None


Variant = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    shapes = ((7, 64), (33, 64), (7, 33))
    tensors = [
        example(*shape, device=device, dtype=dtype, seed=n).requires_grad_()
        for n, shape in enumerate(shapes)
    ]
    y = end_linear(*variant(*tensors))
    upstream = example(7, 33, device=device, dtype=dtype)
    return [y, *torch.autograd.grad(y, tensors, upstream)]


RESIDUAL: Operation[Variant] = Operation(
    "residual", {"last": _last, "in_product": _in_product, "reference": _twin}, _trial
)
