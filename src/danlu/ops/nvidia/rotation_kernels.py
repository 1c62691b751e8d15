"""QK-norm and RoPE of the merged projection in one kernel each way.

A program holds one head of one token. Values are not touched on the way there; on the way back
their gradient is copied into its place, so that the whole projection's is made by one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# How many programs share the tokens where the norms' gradients are summed: each makes one addend.
_ADDENDS = 128


def forward(
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    num_kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `ops.rotated_qkv`."""
    tokens, head_dim = len(qkv), len(q_norm)
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    rotated = qkv.new_empty(tokens, num_heads + num_kv_heads, head_dim)
    if tokens:
        _forward_kernel[(tokens, num_heads + num_kv_heads)](
            *(qkv, q_norm, k_norm, cos, sin, rotated),
            *(qkv.stride(0), cos.stride(0), num_heads, eps),
            HALF=head_dim // 2,
            BLOCK=triton.next_power_of_2(head_dim // 2),
            num_warps=1,
        )
    q, k = rotated.split([num_heads, num_kv_heads], dim=1)
    return q, k, qkv.view(tokens, -1, head_dim)[:, -num_kv_heads:]


def backward(
    gradients: Sequence[Tensor], arguments: Any, with_weights: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """See `ops.rope.RotationPasses`."""
    qkv, q_norm, k_norm, eps, cos, sin, num_kv_heads = arguments
    dq, dk, dv = (part if part.stride(2) == 1 else part.contiguous() for part in gradients)
    tokens, num_heads, head_dim = dq.shape
    dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    programs = min(tokens, _ADDENDS) if with_weights else tokens
    heads = num_heads + 2 * num_kv_heads
    # Where nobody asks for the norms' gradients, nothing is written.
    addends = qkv.new_empty(
        programs if with_weights else 0, num_heads + num_kv_heads, head_dim, dtype=torch.float32
    )
    if tokens:
        strides = [stride for part in (dq, dk, dv) for stride in part.stride()[:2]]
        _backward_kernel[(programs, heads)](
            *(dq, dk, dv, qkv, q_norm, k_norm, cos, sin, dqkv, addends),
            *(*strides, qkv.stride(0), cos.stride(0)),
            *(tokens, num_heads, num_kv_heads, eps),
            HALF=head_dim // 2,
            BLOCK=triton.next_power_of_2(head_dim // 2),
            WITH_WEIGHTS=with_weights,
            num_warps=1,
        )
    if not with_weights:
        return dqkv, None, None
    of_q, of_k = addends.sum(0).split([num_heads, num_kv_heads])
    return dqkv, of_q.sum(0).to(q_norm.dtype), of_k.sum(0).to(q_norm.dtype)


@triton.jit
def _forward_kernel(
    qkv, q_norm, k_norm, cos, sin, rotated,
    stride, angle_stride, num_heads, eps,
    HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    places = tl.arange(0, BLOCK)
    inside = places < HALF
    first = tl.load(qkv + token * stride + head * 2 * HALF + places, mask=inside, other=0.0)
    second = tl.load(qkv + token * stride + (2 * head + 1) * HALF + places, mask=inside, other=0.0)
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(first * first + second * second, axis=0) / (2 * HALF) + eps)
    norm = k_norm if head >= num_heads else q_norm
    w_first = tl.load(norm + places, mask=inside, other=0.0).to(tl.float32)
    w_second = tl.load(norm + HALF + places, mask=inside, other=0.0).to(tl.float32)
    # Rounded where the model of Hugging Face rounds: behind the norm, and behind its weight.
    first = ((first * inverse).to(dtype).to(tl.float32) * w_first).to(dtype).to(tl.float32)
    second = ((second * inverse).to(dtype).to(tl.float32) * w_second).to(dtype).to(tl.float32)
    c = tl.load(cos + token * angle_stride + places, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + token * angle_stride + places, mask=inside, other=0.0).to(tl.float32)
    heads = tl.num_programs(1)
    out = rotated + (token * heads + head) * 2 * HALF + places
    tl.store(out, first * c - second * s, mask=inside)
    tl.store(out + HALF, second * c + first * s, mask=inside)


@triton.jit
def _backward_kernel(
    dq, dk, dv, qkv, q_norm, k_norm, cos, sin, dqkv, addends,
    q_token, q_head, k_token, k_head, v_token, v_head, stride, angle_stride,
    tokens, num_heads, num_kv_heads, eps,
    HALF: tl.constexpr, BLOCK: tl.constexpr, WITH_WEIGHTS: tl.constexpr,
):  # fmt: skip
    """Rotate back, by the opposite angle, then the norm's backward pass."""
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    head, all_heads = tl.program_id(1), tl.num_programs(1)
    places = tl.arange(0, BLOCK)
    inside = places < HALF
    is_value = head >= num_heads + num_kv_heads
    norm = k_norm if head >= num_heads else q_norm
    w_first = tl.load(norm + places, mask=inside, other=0.0).to(tl.float32)
    w_second = tl.load(norm + HALF + places, mask=inside, other=0.0).to(tl.float32)
    addend_first = tl.zeros((BLOCK,), dtype=tl.float32)
    addend_second = tl.zeros((BLOCK,), dtype=tl.float32)
    for done in range(0, tokens - tl.program_id(0), programs):
        token = program + done
        grad = dq + token * q_token + head * q_head
        if head >= num_heads:
            grad = dk + token * k_token + (head - num_heads) * k_head
        if is_value:
            grad = dv + token * v_token + (head - num_heads - num_kv_heads) * v_head
        g_first = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
        g_second = tl.load(grad + HALF + places, mask=inside, other=0.0).to(tl.float32)
        out = dqkv + (token * all_heads + head) * 2 * HALF + places
        if is_value:
            tl.store(out, g_first, mask=inside)
            tl.store(out + HALF, g_second, mask=inside)
        else:
            c = tl.load(cos + token * angle_stride + places, mask=inside, other=0.0).to(tl.float32)
            s = tl.load(sin + token * angle_stride + places, mask=inside, other=0.0).to(tl.float32)
            x = qkv + token * stride + head * 2 * HALF + places
            first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
            second = tl.load(x + HALF, mask=inside, other=0.0).to(tl.float32)
            back_first = g_first * c + g_second * s
            back_second = g_second * c - g_first * s
            squares = tl.sum(first * first + second * second, axis=0)
            inverse = tl.rsqrt(squares / (2 * HALF) + eps)
            first, second = first * inverse, second * inverse
            if WITH_WEIGHTS:
                addend_first += back_first * first
                addend_second += back_second * second
            back_first, back_second = back_first * w_first, back_second * w_second
            mean = tl.sum(back_first * first + back_second * second, axis=0) / (2 * HALF)
            tl.store(out, (back_first - first * mean) * inverse, mask=inside)
            tl.store(out + HALF, (back_second - second * mean) * inverse, mask=inside)
    if WITH_WEIGHTS and not is_value:
        heads = all_heads - num_kv_heads
        out = addends + (program * heads + head) * 2 * HALF + places
        tl.store(out, addend_first, mask=inside)
        tl.store(out + HALF, addend_second, mask=inside)
