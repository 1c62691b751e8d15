"""Attention of a packed batch in one kernel each way: all segments, heads shared by queries as is.

Its layout TND takes the lengths as sums, on the host. `sparse_mode` 3 is causal from the lower
right; it needs the compressed mask, in which true means masked out: without it the mode is ignored
and every token sees its whole segment.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from danlu.ops.attention import Segments

# What the page allows in one call; it says 1K for packed batches.
_MOST_SEGMENTS = 1024
CAUSAL = 3


@lru_cache(maxsize=1)
def compressed_mask(device: torch.device) -> Tensor:
    """Return the mask of all causal kernels: bool [2048, 2048], whatever the lengths; made once."""
    with torch.inference_mode(False), torch.no_grad():
        ones = torch.ones(2048, 2048, dtype=torch.bool, device=device)
        return ones.tril().logical_not_()


def fusion_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend inside each segment; see `danlu.ops.segment_attention`."""
    lengths = segments.lengths
    if len(lengths) <= _MOST_SEGMENTS:
        return _attend(q, k, v, lengths)
    groups = [lengths[n : n + _MOST_SEGMENTS] for n in range(0, len(lengths), _MOST_SEGMENTS)]
    sizes = [sum(group) for group in groups]
    parts = zip(q.split(sizes), k.split(sizes), v.split(sizes), groups, strict=True)
    return torch.cat([_attend(*part) for part in parts])


def _attend(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    ends = list(accumulate(lengths))
    out: Tensor = torch.ops.npu.npu_fusion_attention(
        q,
        k,
        v,
        q.shape[1],
        "TND",
        atten_mask=compressed_mask(q.device),
        scale=q.shape[2] ** -0.5,
        actual_seq_qlen=ends,
        actual_seq_kvlen=ends,
        sparse_mode=CAUSAL,
    )[0]
    return out.flatten(1)
