"""`attend` for packed segments: the whole sequence of every segment is in the batch.

Used by training and by every evaluation of known text. The engine has its own, with a cache; both
share `rotated_qkv`. Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from danlu.model.config import ModelConfig
from danlu.model.qwen3 import Layer
from danlu.ops import norm_rotate, rotary_table, segment_attention


def rotated_qkv(layer: Layer, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Split qkv [T, q + 2 kv] into q, k and v [T, heads, head_dim]; norm and rotate q and k.

    cos, sin: [T, head_dim / 2], as `rotary_table` returns them.
    """
    config = layer.config
    tokens = qkv.shape[0]
    q, k, v = (
        part.view(tokens, -1, config.head_dim)
        for part in qkv.split([config.q_size, config.kv_size, config.kv_size], dim=-1)
    )
    eps = config.rms_norm_eps
    return (
        norm_rotate(q, layer.q_norm, eps, cos, sin),
        norm_rotate(k, layer.k_norm, eps, cos, sin),
        v,
    )


class PackedAttention:
    """Causal attention inside each segment of one packed batch.

    positions: [T] on the model's device; segment_lengths: tokens of each segment, in order.
    """

    def __init__(
        self, config: ModelConfig, positions: Tensor, segment_lengths: Sequence[int]
    ) -> None:
        self._cos, self._sin = rotary_table(positions, config.head_dim, config.rope_theta)
        self._lengths = tuple(segment_lengths)

    def __call__(self, layer: Layer, qkv: Tensor) -> Tensor:  # [T, q + 2 kv] -> [T, q]
        q, k, v = rotated_qkv(layer, qkv, self._cos, self._sin)
        return segment_attention(q, k, v, self._lengths)
