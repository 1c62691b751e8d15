"""SwiGLU on the merged projection as it lies: one pass each way."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def forward(gate_up: Tensor) -> Tensor:
    """See `ops.swiglu`."""
    rows, size = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, size)
    if rows:
        grid = (rows, triton.cdiv(size, _BLOCK))
        _swiglu_kernel[grid](gate_up, out, gate_up.stride(0), size, BLOCK=_BLOCK)
    return out


def backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """See `ops.swiglu_backward`."""
    rows, size = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, 2 * size)
    grad = grad if grad.stride(1) == 1 else grad.contiguous()
    if rows:
        grid = (rows, triton.cdiv(size, _BLOCK))
        strides = (grad.stride(0), gate_up.stride(0))
        _swiglu_back_kernel[grid](grad, gate_up, out, *strides, size, BLOCK=_BLOCK)
    return out


@triton.jit
def _swiglu_kernel(gate_up, out, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    gate = tl.load(gate_up + row * stride + places, mask=inside, other=0.0)
    up = tl.load(gate_up + row * stride + size + places, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    # Rounded before the product, as torch rounds the silu.
    silu = (wide * tl.sigmoid(wide)).to(gate.dtype).to(tl.float32)
    tl.store(out + row * size + places, silu * up.to(tl.float32), mask=inside)


@triton.jit
def _swiglu_back_kernel(grad, gate_up, out, grad_stride, stride, size, BLOCK: tl.constexpr):
    """silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g)))."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    g = tl.load(grad + row * grad_stride + places, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_up + row * stride + places, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + size + places, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    slope = sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(out + 2 * row * size + places, g * up * slope, mask=inside)
    tl.store(out + (2 * row + 1) * size + places, g * gate * sigmoid, mask=inside)
