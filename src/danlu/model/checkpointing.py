"""Recomputation: run a part of the model, keep only its input, run it again for its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from danlu.device.memory import back_on_device, to_host


def again(run: Callable[[Tensor, bool], Tensor], x: Tensor, *, on_host: bool = False) -> Tensor:
    """Return run(x, False) and keep only x; the backward pass calls run(x, True).

    run: its second argument tells whether it is the second run, which may leave out the value if
    nothing in its graph needs it. on_host: keep x in the host's memory.
    `torch.utils.checkpoint` does much the same, but knows neither of the two.
    """
    if not torch.is_grad_enabled():
        return run(x, False)
    # What is trained inside is no input of the function, and the embeddings that enter the first
    # layer need no gradient: without an anchor there would be no graph.
    anchor = x.new_empty(0).requires_grad_()
    return _Again.apply(anchor, x, run, on_host)  # type: ignore[no-any-return, no-untyped-call]


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, _anchor: Tensor, x: Tensor, run: Callable[[Tensor, bool], Tensor], on_host: bool
    ) -> Tensor:
        ctx.run, ctx.device = run, x.device
        ctx.save_for_backward(to_host(x) if on_host else x)
        return run(x, False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        x = back_on_device(kept, ctx.device).detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad():
            y = ctx.run(x, True)
        # Before the first trained matrix nothing has a gradient, for instance in the attention of
        # the first layer where only the MLPs have adapters.
        if y.requires_grad:
            torch.autograd.backward(y, dy)  # what is trained inside receives its gradient here
        return None, x.grad, None, None
