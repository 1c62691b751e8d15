"""Attention of a packed batch by one call of torch's FlashAttention each way.

torch's own function for variable lengths stands behind `torch.nn.attention.varlen`, whose arguments
still change from release to release; the operation below it takes the same from 2.10 to 2.13, and
keys and values with fewer heads than the queries, strided ones too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.attention import Segments, each_segment


def flash(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend inside each segment; see `danlu.ops.segment_attention`. The kernel is for 16 bits."""
    if q.dtype == torch.float32:
        return each_segment(q, k, v, segments)
    longest = max(segments.lengths)
    out: Tensor = torch.ops.aten._flash_attention_forward(
        *(q, k, v, segments.offsets, segments.offsets, longest, longest),
        *(0.0, True, False),  # no dropout, causal, no mask of the dropout to look at
        scale=q.shape[2] ** -0.5,
    )[0]
    return out.flatten(1)
