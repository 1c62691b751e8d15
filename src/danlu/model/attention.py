"""`attend` for packed segments: the whole sequence of every segment is in the batch.

Used by training and by every evaluation of known text. The engine has its own, with a cache.
Shapes: T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.model.config import ModelConfig
from danlu.model.qwen3 import Layer
from danlu.ops import Segments, look_up, rotary_table, rotated_qkv, segment_attention

# cos and sin of positions' angles, as `ops.rotary_table` has them.
Table = tuple[Tensor, Tensor]


def rotary_table_of(
    config: ModelConfig, num_positions: int, device: torch.device, dtype: torch.dtype
) -> Table:
    """Return a model's table of the first positions, or of a few more."""
    return rotary_table(
        num_positions, config.head_dim, config.rope_theta, device=device, dtype=dtype
    )


class Rotation:
    """QK-norm and RoPE of a batch's tokens, positions [T] on the model's device.

    table: of more positions than the largest of them.
    """

    def __init__(self, config: ModelConfig, positions: Tensor, table: Table) -> None:
        self._config = config
        cos, sin = (look_up(part, positions) for part in table)
        self._angles = cos, sin  # the same for every layer

    def __call__(self, layer: Layer, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split qkv [T, q + 2 kv] into q, k and v [T, heads, head_dim]; norm and rotate q and k."""
        config = self._config
        return rotated_qkv(
            qkv,
            layer.q_norm,
            layer.k_norm,
            config.rms_norm_eps,
            *self._angles,
            config.num_key_value_heads,
        )


class PackedAttention:
    """Causal attention inside each segment of one packed batch.

    positions: [T] on the model's device, from 0 in every segment.
    """

    def __init__(self, config: ModelConfig, positions: Tensor, segments: Segments) -> None:
        self._config, self._positions, self._segments = config, positions, segments
        self._rotation: Rotation | None = None

    def __call__(self, layer: Layer, qkv: Tensor) -> Tensor:  # [T, q + 2 kv] -> [T, q]
        if self._rotation is None:
            longest = max(self._segments.lengths)
            table = rotary_table_of(self._config, longest, qkv.device, qkv.dtype)
            self._rotation = Rotation(self._config, self._positions, table)
        q, k, v = self._rotation(layer, qkv)
        return segment_attention(q, k, v, self._segments)
