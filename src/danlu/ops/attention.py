"""Causal attention over packed segments: no token sees another segment, nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def prefers_fp32(device: torch.device) -> bool:
    """Tell whether whole segments are faster in fp32, whatever the model's precision.

    True on the CPU: aten's bf16 backward is slow for short segments, and makes kernels for every
    length that it meets and never frees them (docs/performance.md).
    """
    return device.type == "cpu"


def segment_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Attend inside each segment.

    q: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim]; lengths: the tokens of each
    segment, in order. Returns [tokens, heads * head_dim].
    """
    dtype = q.dtype
    if prefers_fp32(q.device):
        q, k, v = q.float(), k.float(), v.float()
    # `split` and one `cat`: slicing in the loop would cost a full-size gradient per segment.
    segments = zip(*(part.split(list(lengths)) for part in (q, k, v)), strict=True)
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
    [start, end) that belong to these queries, in order, at least as many as queries. Returns
    [tokens, heads * head_dim].
    """
    if q.shape[0] == 1:
        return _attend_once(q[0], keys, values, spans)
    queries = q.transpose(0, 1)
    k, v = (_joined(store, spans) for store in (keys, values))
    if k.shape[1] == q.shape[0] and prefers_fp32(q.device):
        out = _attend(queries.float(), k.float(), v.float()).to(q.dtype)
    else:
        out = _attend(queries, k, v)
    return out.transpose(0, 1).reshape(q.shape[0], -1)


def _attend_once(
    q: Tensor, keys: Tensor, values: Tensor, spans: Sequence[tuple[int, int]]
) -> Tensor:
    """Attend with one query, q: [heads, head_dim], reading every span where it lies.

    Nothing is masked, so it is two products a span; on a CPU they are several times faster than
    the fused attention, which is made for many queries (docs/performance.md).
    """
    kv_heads = keys.shape[0]
    grouped = q.reshape(kv_heads, -1, q.shape[1]) * q.shape[1] ** -0.5
    scores = [torch.matmul(grouped, keys[:, start:end].transpose(1, 2)) for start, end in spans]
    weights = torch.cat(scores, dim=2).softmax(dim=2, dtype=torch.float32).to(q.dtype)
    parts = weights.split([end - start for start, end in spans], dim=2)
    out = torch.matmul(parts[0], values[:, spans[0][0] : spans[0][1]])
    for part, (start, end) in zip(parts[1:], spans[1:], strict=True):
        out += torch.matmul(part, values[:, start:end])
    return out.reshape(1, -1)


def _joined(store: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
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
