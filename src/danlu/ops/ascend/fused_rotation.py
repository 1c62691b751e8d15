"""QK-norm and RoPE of the merged projection: a norm and a rotation each for q and k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.ops.ascend.fused_norm import norm_backward
from danlu.ops.rope import RotationPasses


def _forward(
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    num_kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _heads(qkv, len(q_norm), num_kv_heads)
    normed = (
        torch.ops.npu.npu_rms_norm(part, weight, epsilon=eps)[0]
        for part, weight in ((q, q_norm), (k, k_norm))
    )
    q, k = (_rotate(part, cos, sin) for part in normed)
    return q, k, v


def _heads(x: Tensor, head_dim: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split [T, (heads + 2 kv_heads) * head_dim] into q, k and v: views."""
    heads = x.view(len(x), -1, head_dim)
    q, k, v = heads.split([heads.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=1)
    return q, k, v


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [T, heads, head_dim], which is the kernel's layout BSND with a batch of one.

    cos, sin: [T, head_dim].
    """
    angles = (part[None, :, None] for part in (cos, sin))
    rotated: Tensor = torch.ops.npu.npu_rotary_mul(x[None], *angles)[0]
    return rotated


def _backward(
    gradients: Sequence[Tensor], arguments: Any, with_weights: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads = arguments
    dq, dk, dv = gradients
    q, k, _v = _heads(qkv, len(q_norm), num_kv_heads)
    # A rotation's transpose is the rotation by the opposite angle.
    back = -sin
    (dq, dq_norm), (dk, dk_norm) = (
        norm_backward(_rotate(grad, cos, back), part, weight, eps, with_weights)
        for grad, part, weight in ((dq, q, q_norm), (dk, k, k_norm))
    )
    return torch.cat((dq, dk, dv), dim=1).view_as(qkv), dq_norm, dk_norm


ROTATION = RotationPasses(_forward, _backward, whole_angles=True)
