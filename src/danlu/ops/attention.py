"""Causal attention over packed segments: no token sees another segment, nothing is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.memory import sent
from danlu.ops import reference
from danlu.ops.choice import Operation, example


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Where the segments of a packed batch lie.

    lengths: tokens of each segment, in order. offsets: where each begins, and the end of the last:
    int32 [segments + 1] on the batch's device.
    """

    lengths: tuple[int, ...]
    offsets: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> Segments:
        """Describe segments whose offsets are not on the device yet."""
        offsets = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        return cls(lengths=tuple(lengths), offsets=sent(offsets, torch.device(device)))


def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend inside each segment of a batch.

    q: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim]. Returns [tokens, heads *
    head_dim].
    """
    return ATTENTION.on(q.device)(q, k, v, segments)


def each_segment(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend segment by segment."""
    # `split` and one `cat`: slicing in the loop would cost a full-size gradient per segment.
    parts = zip(*(part.split(segments.lengths) for part in (q, k, v)), strict=True)
    outputs = [attend(*(part.transpose(0, 1) for part in each)).transpose(0, 1) for each in parts]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined.reshape(q.shape[0], -1)


def _in_fp32(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Attend in fp32, whatever the model's precision.

    Faster on the CPU: aten's bf16 backward is slow for short segments, and makes kernels for every
    length that it meets and never frees them (docs/performance.md).
    """
    return each_segment(q.float(), k.float(), v.float(), segments).to(q.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend causally in one segment; the last query stands at the last key.

    q: [heads, queries, head_dim]; k, v: [kv_heads, keys, head_dim] -> [heads, queries, head_dim].
    """
    queries, keys = q.shape[1], k.shape[1]
    mask = None
    if 1 < queries < keys:
        rows = torch.arange(keys - queries, keys, device=q.device)
        mask = rows[:, None] >= torch.arange(keys, device=q.device)[None, :]
    shares, is_causal = q.shape[0] != k.shape[0], queries == keys and queries > 1
    if shares and _splits_heads(q.device):
        q, k, v = _by_key_head(q, k, v)
        each = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
        return each.flatten(0, 1)
    out: Tensor = F.scaled_dot_product_attention(
        q.unsqueeze(0),
        k.unsqueeze(0),
        v.unsqueeze(0),
        attn_mask=mask,
        is_causal=is_causal,
        enable_gqa=shares,
    )
    return out.squeeze(0)


def _splits_heads(device: torch.device) -> bool:
    """Whether torch's attention shall see each head of the keys as a batch of its own.

    On NVIDIA cards `enable_gqa` is for FlashAttention and cuDNN. Where neither computes, before
    Ampere, in fp32 and with a mask, it leaves the formula itself, which keeps all scores
    (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp); seen so, a kernel is left that does not.
    """
    return device.type == "cuda"


def _by_key_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all as [kv_heads, heads / kv_heads, tokens, head_dim]; nothing is copied."""
    group = q.shape[0] // k.shape[0]
    k, v = (part.unsqueeze(1).expand(-1, group, -1, -1) for part in (k, v))
    return q.unflatten(0, (-1, group)), k, v


def _twin(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    return reference.segment_attention(q, k, v, segments.offsets)


Variant = Callable[[Tensor, Tensor, Tensor, Segments], Tensor]


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    # Heads of Qwen3's size, as kernels differ by it, and a row that is longer than a block of keys.
    lengths = [5, 1, 130]
    q, k, merged = (
        example(sum(lengths), heads, 128, device=device, dtype=dtype, seed=n).requires_grad_()
        for n, heads in enumerate((4, 2, 8))
    )
    v = merged[:, -2:]  # as the model has it: values lie beside what they were projected with
    out = variant(q, k, v, Segments.of(lengths, device))
    upstream = example(*out.shape, device=device, dtype=dtype)
    return [out, *torch.autograd.grad(out, (q, k, merged), upstream)]


ATTENTION: Operation[Variant] = Operation(
    "attention", {"sdpa": each_segment, "float32": _in_fp32, "reference": _twin}, _trial
)
