"""Causal attention of a whole packed batch by one call each way, in bf16 with sums in fp32.

For the backward pass the inputs, the output and each row's log of a sum are kept, as flash
attention does (Dao et al. 2022).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.ops.attention import ATTENTION, Segments
from danlu.ops.native.library import Float, KernelCall, Kind, Pointer, Size, library


class _Attention(KernelCall):
    kind = Kind.ATTEND
    _fields_ = (
        *((name, Pointer) for name in ("q", "k", "v", "out", "log_sums", "offsets")),
        *((name, Pointer) for name in ("grad", "dq", "dk", "dv")),
        *((name, Size) for name in ("q_row", "k_row", "v_row")),
        *((name, Size) for name in ("segments", "heads", "kv_heads", "dim")),
        ("scale", Float),
    )


class _AttentionBackward(_Attention):
    kind = Kind.ATTEND_BACKWARD


def packed_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend inside each segment; see `danlu.ops.segment_attention`."""
    if q.dtype != torch.bfloat16 or q.shape[2] % 2:
        return ATTENTION.variants["float32"](q, k, v, segments)
    return _PackedAttention.apply(q, k, v, segments.offsets)  # type: ignore[no-any-return, no-untyped-call]


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
        q, k, v = _by_rows(q), _by_rows(k), _by_rows(v)
        tokens, heads, dim = q.shape
        out = q.new_empty(tokens, heads * dim)
        log_sums = q.new_empty(tokens, heads, dtype=torch.float32)
        tensors = (q, k, v, out, log_sums, offsets, None, None, None, None)
        library().run(_Attention(*tensors, *_sizes(q, k, v, offsets)))
        ctx.save_for_backward(q, k, v, out, log_sums, offsets)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, _out, _log_sums, offsets = ctx.saved_tensors
        gradients = [part.new_empty(part.shape) for part in (q, k, v)]
        tensors = (*ctx.saved_tensors, grad.contiguous(), *gradients)
        library().run(_AttentionBackward(*tensors, *_sizes(q, k, v, offsets)))
        return *gradients, None


def _by_rows(part: Tensor) -> Tensor:
    """Return [tokens, heads, dim] whose heads lie side by side, however far its rows are apart."""
    dim = part.shape[2]
    return part if part.stride()[1:] == (dim, 1) else part.contiguous()


def _sizes(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> tuple[float, ...]:
    strides = (part.stride(0) for part in (q, k, v))
    heads, dim = q.shape[1:]
    return *strides, len(offsets) - 1, heads, k.shape[1], dim, dim**-0.5
