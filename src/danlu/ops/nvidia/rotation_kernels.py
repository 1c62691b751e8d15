"""QK-norm and RoPE of the merged projection in one kernel each way.

A program holds a few heads of one token, all of queries, of keys or of values. Values are not
touched on the way there; on the way back their gradient is copied into its place, so that the whole
projection's is made by one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# How many programs share the tokens where the norms' gradients are summed: each makes one addend.
_ADDENDS = 128
# The most heads of a program: a power of two.
_HEADS = 8


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
        heads = _together(num_heads, num_kv_heads)
        _rotate_kernel[(tokens, (num_heads + num_kv_heads) // heads)](
            *(qkv, q_norm, k_norm, cos, sin, rotated),
            *(qkv.stride(0), cos.stride(0), num_heads, num_heads + num_kv_heads, eps),
            HEADS=heads,
            HALF=head_dim // 2,
            BLOCK=triton.next_power_of_2(head_dim // 2),
            num_warps=max(heads // 4, 1),
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
    heads = _together(num_heads, num_kv_heads)
    # Where nobody asks for the norms' gradients, nothing is written.
    addends = qkv.new_empty(
        programs if with_weights else 0, num_heads + num_kv_heads, head_dim, dtype=torch.float32
    )
    if tokens:
        strides = [stride for part in (dq, dk, dv) for stride in part.stride()[:2]]
        _rotate_back_kernel[(programs, (num_heads + 2 * num_kv_heads) // heads)](
            *(dq, dk, dv, qkv, q_norm, k_norm, cos, sin, dqkv, addends),
            *(*strides, qkv.stride(0), cos.stride(0)),
            *(tokens, num_heads, num_kv_heads, eps),
            HEADS=heads,
            HALF=head_dim // 2,
            BLOCK=triton.next_power_of_2(head_dim // 2),
            WITH_WEIGHTS=with_weights,
            num_warps=max(heads // 4, 1),
        )
    if not with_weights:
        return dqkv, None, None
    of_q, of_k = addends.sum(0).split([num_heads, num_kv_heads])
    return dqkv, of_q.sum(0).to(q_norm.dtype), of_k.sum(0).to(q_norm.dtype)


def _together(num_heads: int, num_kv_heads: int) -> int:
    """Return how many heads a program takes, so that they are all of one kind."""
    both = math.gcd(num_heads, num_kv_heads, _HEADS)
    return both & -both


@triton.jit
def _rotate_kernel(
    qkv, q_norm, k_norm, cos, sin, rotated,
    stride, angle_stride, num_heads, all_heads, eps,
    HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token, first_head = tl.program_id(0).to(tl.int64), tl.program_id(1) * HEADS
    head, places = first_head + tl.arange(0, HEADS), tl.arange(0, BLOCK)
    inside = places < HALF
    both = inside[None, :] & (head < all_heads)[:, None]
    x = qkv + token * stride + head[:, None] * 2 * HALF + places[None, :]
    first = tl.load(x, mask=both, other=0.0)
    dtype = first.dtype
    first = first.to(tl.float32)
    second = tl.load(x + HALF, mask=both, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(first * first + second * second, axis=1) / (2 * HALF) + eps)[:, None]
    norm = k_norm if first_head >= num_heads else q_norm
    w_first = tl.load(norm + places, mask=inside, other=0.0).to(tl.float32)[None, :]
    w_second = tl.load(norm + HALF + places, mask=inside, other=0.0).to(tl.float32)[None, :]
    # Rounded where the model of Hugging Face rounds: behind the norm, and behind its weight.
    first = ((first * inverse).to(dtype).to(tl.float32) * w_first).to(dtype).to(tl.float32)
    second = ((second * inverse).to(dtype).to(tl.float32) * w_second).to(dtype).to(tl.float32)
    angle = token * angle_stride + places
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    out = rotated + (token * all_heads + head[:, None]) * 2 * HALF + places[None, :]
    tl.store(out, first * c - second * s, mask=both)
    tl.store(out + HALF, second * c + first * s, mask=both)


# One kernel for any number of tokens, where Triton would compile others for 1 and multiples of 16.
@triton.jit(do_not_specialize=["tokens"])
def _rotate_back_kernel(
    dq, dk, dv, qkv, q_norm, k_norm, cos, sin, dqkv, addends,
    q_token, q_head, k_token, k_head, v_token, v_head, stride, angle_stride,
    tokens, num_heads, num_kv_heads, eps,
    HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, WITH_WEIGHTS: tl.constexpr,
):  # fmt: skip
    """Rotate back, by the opposite angle, then the norm's backward pass."""
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    first_head, all_heads = tl.program_id(1) * HEADS, num_heads + 2 * num_kv_heads
    own, places = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (places < HALF) & (own < HEADS)
    is_value = first_head >= num_heads + num_kv_heads
    norm = k_norm if first_head >= num_heads else q_norm
    w_first = tl.load(norm + places, mask=places < HALF, other=0.0).to(tl.float32)
    w_second = tl.load(norm + HALF + places, mask=places < HALF, other=0.0).to(tl.float32)
    addend_first = tl.zeros((HEADS, BLOCK), dtype=tl.float32)
    addend_second = tl.zeros((HEADS, BLOCK), dtype=tl.float32)
    for done in range(0, tokens - tl.program_id(0), programs):
        token = program + done
        grad = dq + token * q_token + (first_head + own) * q_head
        if first_head >= num_heads:
            grad = dk + token * k_token + (first_head - num_heads + own) * k_head
        if is_value:
            grad = dv + token * v_token + (first_head - num_heads - num_kv_heads + own) * v_head
        g_first = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
        g_second = tl.load(grad + HALF + places, mask=inside, other=0.0).to(tl.float32)
        out = dqkv + (token * all_heads + first_head + own) * 2 * HALF + places
        if is_value:
            tl.store(out, g_first, mask=inside)
            tl.store(out + HALF, g_second, mask=inside)
        else:
            angle = token * angle_stride + places
            c = tl.load(cos + angle, mask=places < HALF, other=0.0).to(tl.float32)
            s = tl.load(sin + angle, mask=places < HALF, other=0.0).to(tl.float32)
            x = qkv + token * stride + (first_head + own) * 2 * HALF + places
            first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
            second = tl.load(x + HALF, mask=inside, other=0.0).to(tl.float32)
            back_first = g_first * c + g_second * s
            back_second = g_second * c - g_first * s
            squares = tl.sum(first * first + second * second, axis=1)[:, None]
            inverse = tl.rsqrt(squares / (2 * HALF) + eps)
            first, second = first * inverse, second * inverse
            if WITH_WEIGHTS:
                addend_first += back_first * first
                addend_second += back_second * second
            back_first, back_second = back_first * w_first, back_second * w_second
            products = back_first * first + back_second * second
            mean = tl.sum(products, axis=1)[:, None] / (2 * HALF)
            tl.store(out, (back_first - first * mean) * inverse, mask=inside)
            tl.store(out + HALF, (back_second - second * mean) * inverse, mask=inside)
    if WITH_WEIGHTS and not is_value:
        heads = all_heads - num_kv_heads
        out = addends + (program * heads + first_head + own) * 2 * HALF + places
        tl.store(out, addend_first, mask=inside)
        tl.store(out + HALF, addend_second, mask=inside)
