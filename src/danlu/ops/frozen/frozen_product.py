"""A product whose weight is frozen: it has a gradient of what is multiplied, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Pass = Callable[[Tensor], Tensor]


def frozen_product(x: Tensor, product: Pass, gradient: Pass) -> Tensor:
    """Return product(x). gradient: makes x's gradient of the product's; neither may hold x."""
    if not torch.is_grad_enabled():
        return product(x)
    return _FrozenProduct.apply(x, product, gradient)  # type: ignore[no-any-return, no-untyped-call]


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Pass, gradient: Pass) -> Tensor:
        ctx.gradient = gradient
        return product(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient(dy), None, None
