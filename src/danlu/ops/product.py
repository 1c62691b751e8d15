"""A product with a weight matrix, and the residual stream that is added to it.

Where the residual is added decides how a 16-bit sum is rounded: by the product itself before it
rounds, which costs nothing on NVIDIA cards, or last, behind what an adapter adds. For answers the
norm that reads the sum may add it (`Stream`): that spares a start, and reading the sum once more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.variants import REFERENCE
from danlu.ops import reference
from danlu.ops.choice import Operation, example
from danlu.ops.rms_norm import rms_norm


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
    "residual", {"last": _last, "in_product": _in_product, REFERENCE: _twin}, _trial
)


# (x, y, weight, eps) -> the normed sum, and the sum.
NormingVariant = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def norms_add(device: torch.device) -> bool:
    """Whether a device has a kernel that adds and norms."""
    return ADD_NORM.name_on(device) != REFERENCE


class Stream:
    """The residual stream [T, H] of one forward pass without gradients.

    What is added to it is not read before the next norm, or `total`.
    """

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._left: Tensor | None = None

    def add(self, product: Tensor) -> None:
        """Add a product [T, H], which becomes the stream's own."""
        self.total()
        self._left = product

    def normed(self, weight: Tensor, eps: float) -> Tensor:
        """Return the norm of the sum. weight: [H]."""
        if self._left is None:
            return rms_norm(self._x, weight, eps)
        n, self._x = ADD_NORM.on(self._x.device)(self._x, self._left, weight, eps)
        self._left = None
        return n

    def total(self) -> Tensor:
        """Return the sum [T, H]."""
        if self._left is not None:
            self._x, self._left = self._left.add_(self._x), None
        return self._x


def _norming_trial(
    variant: NormingVariant, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    x, y = (example(5, 96, device=device, dtype=dtype, seed=seed) for seed in (0, 1))
    with torch.no_grad():
        return list(variant(x, y, example(96, device=device, dtype=dtype), 1e-6))


ADD_NORM: Operation[NormingVariant] = Operation(
    "add_norm", {REFERENCE: reference.add_norm}, _norming_trial
)
