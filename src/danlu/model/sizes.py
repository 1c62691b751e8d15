"""The shapes of the published dense Qwen3 models, for planning without their files. No torch here.

From the config.json of each model on the Hugging Face hub. Where a model's folder is at hand, its
own config.json is used.
"""

from __future__ import annotations

import math
from functools import lru_cache

from danlu.model.config import ModelConfig
from danlu.model.layout import layout

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, tied embeddings
_SHAPES = {
    "Qwen3-0.6B": (1024, 3072, 28, 16, True),
    "Qwen3-1.7B": (2048, 6144, 28, 16, True),
    "Qwen3-4B": (2560, 9728, 36, 32, True),
    "Qwen3-8B": (4096, 12288, 36, 32, False),
    "Qwen3-14B": (5120, 17408, 40, 40, False),
    "Qwen3-32B": (5120, 25600, 64, 64, False),
}


def published_config(name: str) -> ModelConfig | None:
    """Return the shape of a published model: Qwen3-8B, Qwen/Qwen3-8B, qwen3-8b-base, ..."""
    wanted = name.rstrip("/").rpartition("/")[2].lower()
    for published, (hidden, inner, layers, heads, tied) in _SHAPES.items():
        if wanted == published.lower() or wanted.startswith(published.lower() + "-"):
            return ModelConfig(
                vocab_size=151_936,
                hidden_size=hidden,
                intermediate_size=inner,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=8,
                head_dim=128,
                rms_norm_eps=1e-6,
                rope_theta=1_000_000.0,
                max_position_embeddings=40_960,
                tie_word_embeddings=tied,
                dtype="bfloat16",
            )
    return None


def published_names() -> tuple[str, ...]:
    """Name the models of this page, the smallest first."""
    return tuple(_SHAPES)


@lru_cache(maxsize=64)
def num_parameters(config: ModelConfig) -> int:
    """Count a model's numbers; tied embeddings count once."""
    pieces = (piece for pieces in layout(config).values() for piece in pieces)
    return sum(math.prod(piece.shape) for piece in pieces)
