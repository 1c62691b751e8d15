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
    shared = q.shape[1] != k.shape[1]
    outputs = []
    # `split` and one `cat`: slicing in the loop would cost a full-size gradient per segment.
    segments = zip(
        q.split(list(q_lengths)), k.split(list(k_lengths)), v.split(list(k_lengths)), strict=True
    )
    for q_part, k_part, v_part in segments:
        queries, keys = q_part.shape[0], k_part.shape[0]
        mask = None
        if 1 < queries < keys:
            rows = torch.arange(keys - queries, keys, device=q.device)
            mask = rows[:, None] >= torch.arange(keys, device=q.device)[None, :]
        out = F.scaled_dot_product_attention(
            q_part.transpose(0, 1).unsqueeze(0),
            k_part.transpose(0, 1).unsqueeze(0),
            v_part.transpose(0, 1).unsqueeze(0),
            attn_mask=mask,
            is_causal=queries == keys and queries > 1,
            enable_gqa=shared,
        )
        outputs.append(out.squeeze(0).transpose(0, 1))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined.reshape(q.shape[0], -1).to(dtype)
