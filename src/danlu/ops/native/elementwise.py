"""RMS norm, swiglu, and norm with rotation of q and k, in bf16: each a pass over its numbers.

They round where torch's operations round; gradients are made in fp32 and rounded once. Numbers of
another dtype take the variants in plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.ops.native.library import Float, KernelCall, Kind, Pointer, Size, library
from danlu.ops.rms_norm import RMS_NORM, NormPasses
from danlu.ops.rope import ROTATED_QKV, RotationPasses
from danlu.ops.swiglu import SWIGLU, SwigluPasses

# As in native/kernels.h.
_ROWS_OF_A_SUM = 16


class _Norm(KernelCall):
    kind = Kind.RMS_NORM
    _fields_ = (
        *((name, Pointer) for name in ("x", "weight", "grad", "y", "weight_grad")),
        *(("rows", Size), ("size", Size), ("eps", Float)),
    )


class _NormBackward(_Norm):
    kind = Kind.RMS_NORM_BACKWARD


class _Gating(KernelCall):
    kind = Kind.SWIGLU
    _fields_ = (
        *((name, Pointer) for name in ("gate_up", "grad", "y")),
        *(("rows", Size), ("size", Size)),
    )


class _GatingBackward(_Gating):
    kind = Kind.SWIGLU_BACKWARD


class _Rotation(KernelCall):
    kind = Kind.ROTATE
    _fields_ = (
        *((name, Pointer) for name in ("qkv", "q_norm", "k_norm", "cos", "sin", "q", "k", "v")),
        *((name, Pointer) for name in ("dqkv", "q_norm_grad", "k_norm_grad")),
        *((name, Size) for name in ("rows", "heads", "kv_heads", "dim")),
        ("eps", Float),
    )


class _RotationBackward(_Rotation):
    kind = Kind.ROTATE_BACKWARD


def _sums(rows: int, weight: Tensor, wanted: bool) -> Tensor | None:
    """Return room for the gradient of a weight [size], in fp32: a row for some of the rows."""
    if not wanted:
        return None
    return weight.new_zeros(-(-rows // _ROWS_OF_A_SUM), len(weight), dtype=torch.float32)


def _summed(sums: Tensor | None, weight: Tensor) -> Tensor | None:
    return None if sums is None else sums.sum(0).to(weight.dtype)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.dtype != torch.bfloat16:
        return RMS_NORM.variants["torch"].forward(x, weight, eps)
    x = x.contiguous()
    y = torch.empty_like(x)
    size = x.shape[-1]
    library().run(_Norm(x, weight, None, y, None, x.numel() // size, size, eps))
    return y


def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    if x.dtype != torch.bfloat16:
        return RMS_NORM.variants["torch"].backward(grad, x, weight, eps, with_weight)
    x, grad = x.contiguous(), grad.contiguous()
    dx = torch.empty_like(x)
    size = x.shape[-1]
    rows = x.numel() // size
    sums = _sums(rows, weight, with_weight)
    library().run(_NormBackward(x, weight, grad, dx, sums, rows, size, eps))
    return dx, _summed(sums, weight)


def _gated(gate_up: Tensor) -> Tensor:
    if gate_up.dtype != torch.bfloat16:
        return SWIGLU.variants["torch"].forward(gate_up)
    gate_up = gate_up.contiguous()
    rows, both = gate_up.shape
    y = gate_up.new_empty(rows, both // 2)
    library().run(_Gating(gate_up, None, y, rows, both // 2))
    return y


def _gated_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    if gate_up.dtype != torch.bfloat16:
        return SWIGLU.variants["torch"].backward(grad, gate_up)
    gate_up, grad = gate_up.contiguous(), grad.contiguous()
    rows, size = grad.shape
    out = torch.empty_like(gate_up)
    library().run(_GatingBackward(gate_up, grad, out, rows, size))
    return out


def _rotated(
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    num_kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    if qkv.dtype != torch.bfloat16:
        plain = ROTATED_QKV.variants["in_parts"].forward
        return plain(qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads)
    qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
    rows, dim = len(qkv), len(q_norm)
    heads = qkv.view(rows, -1, dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    q, k = qkv.new_empty(rows, num_heads, dim), qkv.new_empty(rows, num_kv_heads, dim)
    tensors = (qkv, q_norm, k_norm, cos, sin, q, k, None, None, None, None)
    library().run(_Rotation(*tensors, rows, num_heads, num_kv_heads, dim, eps))
    return q, k, heads[:, -num_kv_heads:]


def _rotated_backward(
    gradients: Sequence[Tensor], arguments: Any, with_weights: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads = arguments
    if qkv.dtype != torch.bfloat16:
        plain = ROTATED_QKV.variants["in_parts"].backward
        return plain(gradients, arguments, with_weights)
    dq, dk, dv = (gradient.contiguous() for gradient in gradients)
    qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
    dqkv = torch.empty_like(qkv)
    sums = [_sums(len(qkv), norm, with_weights) for norm in (q_norm, k_norm)]
    tensors = (qkv, q_norm, k_norm, cos, sin, dq, dk, dv, dqkv, *sums)
    sizes = (len(qkv), dq.shape[1], num_kv_heads, len(q_norm))
    library().run(_RotationBackward(*tensors, *sizes, eps))
    return dqkv, _summed(sums[0], q_norm), _summed(sums[1], k_norm)


NORM = NormPasses(_norm, _norm_backward)
GATING = SwigluPasses(_gated, _gated_backward)
ROTATION = RotationPasses(_rotated, _rotated_backward)
