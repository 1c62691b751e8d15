"""`attend` for packed segments: the whole sequence of every segment is in the batch.

Used by training and by every evaluation of known text. The engine has its own, with a cache.
Shapes: T tokens.
"""

from __future__ import annotations

from torch import Tensor

from danlu.model.config import ModelConfig
from danlu.model.qwen3 import Layer
from danlu.ops import Segments, look_up, rotary_table, rotated_qkv, segment_attention


class Rotation:
    """QK-norm and RoPE of a batch's tokens, positions [T] on the model's device.

    num_positions: more than the largest of them.
    """

    def __init__(self, config: ModelConfig, positions: Tensor, num_positions: int) -> None:
        self._config = config
        self._positions = positions
        self._num_positions = num_positions
        self._angles: tuple[Tensor, Tensor] | None = None

    def __call__(self, layer: Layer, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split qkv [T, q + 2 kv] into q, k and v [T, heads, head_dim]; norm and rotate q and k."""
        config = self._config
        if self._angles is None:  # the same for every layer
            table = rotary_table(
                self._num_positions,
                config.head_dim,
                config.rope_theta,
                device=qkv.device,
                dtype=qkv.dtype,
            )
            cos, sin = (look_up(part, self._positions) for part in table)
            self._angles = cos, sin
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
        self._rotation = Rotation(config, positions, max(segments.lengths))
        self._segments = segments

    def __call__(self, layer: Layer, qkv: Tensor) -> Tensor:  # [T, q + 2 kv] -> [T, q]
        q, k, v = self._rotation(layer, qkv)
        return segment_attention(q, k, v, self._segments)
