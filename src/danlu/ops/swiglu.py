"""SwiGLU (Shazeer 2020) on a merged gate and up projection; saves only its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops import reference
from danlu.ops.choice import Operation, example, twin_gradients


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up. gate_up: [tokens, 2 * size] -> [tokens, size]."""
    if not torch.is_grad_enabled():
        return SWIGLU.on(gate_up.device).forward(gate_up)
    return _Swiglu.apply(gate_up)  # type: ignore[no-any-return, no-untyped-call]


def swiglu_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """Gradient of the merged input. grad: [tokens, size] -> [tokens, 2 * size]."""
    return SWIGLU.on(gate_up.device).backward(grad, gate_up)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return SWIGLU.on(gate_up.device).forward(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        return swiglu_backward(grad, gate_up)


class SwigluPasses(NamedTuple):
    """A variant: forward(gate_up) and backward(grad, gate_up)."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def _backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g)))."""
    gate, up = gate_up.chunk(2, dim=-1)
    out = torch.empty_like(gate_up)
    d_gate, d_up = out.chunk(2, dim=-1)
    torch.mul(F.silu(gate), grad, out=d_up)
    sigmoid = torch.sigmoid(gate)
    slope = (1 - sigmoid).mul_(gate).add_(1).mul_(sigmoid)
    torch.mul(slope.mul_(up), grad, out=d_gate)
    return out


def _twin_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    return twin_gradients(reference.swiglu, grad, (gate_up,))[0]


def _trial(passes: SwigluPasses, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    gate_up = example(5, 64, device=device, dtype=dtype)
    grad = example(5, 32, device=device, dtype=dtype)
    return [passes.forward(gate_up), passes.backward(grad, gate_up)]


SWIGLU = Operation(
    "swiglu",
    {
        "torch": SwigluPasses(_gated, _backward),
        "reference": SwigluPasses(reference.swiglu, _twin_backward),
    },
    _trial,
)
