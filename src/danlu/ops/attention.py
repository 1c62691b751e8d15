"""Causal attention over packed segments: no token sees another segment, nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def prefers_fp32(device: torch.device) -> bool:
    """Tell whether whole segments are faster in fp32, whatever the model's precision.

    So it is on the CPU: aten's bf16 backward is slow for short segments, and makes kernels of its
    own for every length that it meets, which it never lets go (docs/performance.md).
    """
    return device.type == "cpu"


def segment_attention(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: Sequence[int], k_lengths: Sequence[int]
) -> Tensor:
    """Attend inside each segment; the last query of a segment stands at its last key.

    q: [tokens, heads, head_dim]; k, v: [keys, kv_heads, head_dim]. `q_lengths` and `k_lengths`
    give each segment's share in order; a segment has at least as many keys as queries (more when
    earlier tokens are cached). Returns [tokens, heads * head_dim].
    """
    dtype = q.dtype
    if q_lengths == k_lengths and prefers_fp32(q.device):
        q, k, v = q.float(), k.float(), v.float()
    # `split` and one `cat`: slicing in the loop would cost a full-size gradient per segment.
    segments = zip(
        q.split(list(q_lengths)), k.split(list(k_lengths)), v.split(list(k_lengths)), strict=True
    )
    outputs = [
        _attend(*(part.transpose(0, 1) for part in segment)).transpose(0, 1) for segment in segments
    ]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined.reshape(q.shape[0], -1).to(dtype)


def cached_attention(
    q: Tensor, keys: Tensor, values: Tensor, spans: Sequence[tuple[int, int]]
) -> Tensor:
    """Attend to slots of a cache; the last query stands at the last of them.

    q: [tokens, heads, head_dim]; keys, values: [kv_heads, slots, head_dim]; spans: the slots
    [start, end) that belong to these queries, in order, at least as many as queries. One span is
    read where it lies, several are joined first. Returns [tokens, heads * head_dim].
    """
    queries = q.transpose(0, 1)
    k, v = (_slots(store, spans) for store in (keys, values))
    if k.shape[1] == q.shape[0] and prefers_fp32(q.device):
        out = _attend(queries.float(), k.float(), v.float()).to(q.dtype)
    else:
        out = _attend(queries, k, v)
    return out.transpose(0, 1).reshape(q.shape[0], -1)


def _slots(store: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    parts = [store[:, start:end] for start, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend causally in one segment. q: [heads, queries, head_dim]; k, v: [kv_heads, keys, ..]."""
    queries, keys = q.shape[1], k.shape[1]
    mask = None
    if 1 < queries < keys:
        rows = torch.arange(keys - queries, keys, device=q.device)
        mask = rows[:, None] >= torch.arange(keys, device=q.device)[None, :]
    out: Tensor = F.scaled_dot_product_attention(
        q.unsqueeze(0),
        k.unsqueeze(0),
        v.unsqueeze(0),
        attn_mask=mask,
        is_causal=queries == keys and queries > 1,
        enable_gqa=q.shape[0] != k.shape[0],
    )
    return out.squeeze(0)
