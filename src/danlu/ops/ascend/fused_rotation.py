"""QK-norm and RoPE of the merged projection: a norm and a rotation each for q and k."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.ops.ascend.fused_norm import norm_backward


def rotated_qkv(
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    num_kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split, norm and rotate; see `danlu.ops.rotated_qkv`."""
    arguments = (qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads)
    if not torch.is_grad_enabled():
        return _forward(*arguments)
    return _Rotated.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]


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
    whole_cos, whole_sin = _whole(cos, sin)
    q, k = (_rotate(part, whole_cos, whole_sin) for part in normed)
    return q, k, v


def _heads(x: Tensor, head_dim: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split [T, (heads + 2 kv_heads) * head_dim] into q, k and v: views."""
    heads = x.view(len(x), -1, head_dim)
    q, k, v = heads.split([heads.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=1)
    return q, k, v


def _whole(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat [T, head_dim / 2] for both halves: [1, T, 1, head_dim]."""
    cos, sin = (torch.cat((part, part), dim=-1)[None, :, None] for part in (cos, sin))
    return cos, sin


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [T, heads, head_dim], which is the kernel's layout BSND with a batch of one."""
    rotated: Tensor = torch.ops.npu.npu_rotary_mul(x[None], cos, sin)[0]
    return rotated


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        q_norm: Tensor,
        k_norm: Tensor,
        eps: float,
        cos: Tensor,
        sin: Tensor,
        num_kv_heads: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(qkv, q_norm, k_norm, cos, sin)
        ctx.eps = eps
        return _forward(qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads)

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        qkv, q_norm, k_norm, cos, sin = ctx.saved_tensors
        q, k, _v = _heads(qkv, len(q_norm), dk.shape[1])
        with_weights = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        # A rotation's transpose is the rotation by the opposite angle.
        whole_cos, whole_sin = _whole(cos, -sin)
        gradients = [
            norm_backward(_rotate(grad, whole_cos, whole_sin), part, weight, ctx.eps, with_weights)
            for grad, part, weight in ((dq, q, q_norm), (dk, k, k_norm))
        ]
        (dq, dq_norm), (dk, dk_norm) = gradients
        dqkv = torch.cat((dq, dk, dv), dim=1).view_as(qkv)
        return dqkv, dq_norm, dk_norm, None, None, None, None
