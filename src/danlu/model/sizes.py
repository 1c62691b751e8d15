"""The shapes of the published Qwen3 models, for planning without their files. No torch here.

From the config.json of each model on the Hugging Face hub. Where a model's folder is at hand, its
own config.json is used.
"""

from __future__ import annotations

import math
from functools import lru_cache

from danlu.model.config import ExpertsConfig, ModelConfig
from danlu.model.layout import EXPERTS_MERGED, layout, merged_shape

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, tied
# embeddings
_SHAPES = {
    "Qwen3-0.6B": (1024, 3072, 28, 16, 8, True),
    "Qwen3-1.7B": (2048, 6144, 28, 16, 8, True),
    "Qwen3-4B": (2560, 9728, 36, 32, 8, True),
    "Qwen3-8B": (4096, 12288, 36, 32, 8, False),
    "Qwen3-14B": (5120, 17408, 40, 40, 8, False),
    "Qwen3-30B-A3B": (2048, 6144, 48, 32, 4, False),
    "Qwen3-32B": (5120, 25600, 64, 64, 8, False),
    "Qwen3-235B-A22B": (4096, 12288, 94, 64, 4, False),
}
# moe_intermediate_size, of 128 experts in every layer, 8 for each token.
_EXPERT_SIZES = {"Qwen3-30B-A3B": 768, "Qwen3-235B-A22B": 1536}


def published_config(name: str) -> ModelConfig | None:
    """Return the shape of a published model: Qwen3-8B, Qwen/Qwen3-8B, qwen3-8b-base, ..."""
    wanted = name.rstrip("/").rpartition("/")[2].lower()
    for published, (hidden, inner, layers, heads, kv_heads, tied) in _SHAPES.items():
        if wanted == published.lower() or wanted.startswith(published.lower() + "-"):
            size = _EXPERT_SIZES.get(published)
            return ModelConfig(
                vocab_size=151_936,
                hidden_size=hidden,
                intermediate_size=inner,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=kv_heads,
                head_dim=128,
                rms_norm_eps=1e-6,
                rope_theta=1_000_000.0,
                max_position_embeddings=40_960,
                tie_word_embeddings=tied,
                dtype="bfloat16",
                experts=None if size is None else _experts(size),
            )
    return None


def _experts(size: int) -> ExpertsConfig:
    return ExpertsConfig(
        num_experts=128, num_experts_per_tok=8, moe_intermediate_size=size, norm_topk_prob=True
    )


def published_names() -> tuple[str, ...]:
    """Name the models of this page, the smallest first."""
    return tuple(_SHAPES)


@lru_cache(maxsize=64)
def num_parameters(config: ModelConfig) -> int:
    """Count a model's numbers; tied embeddings count once."""
    pieces = (piece for pieces in layout(config).values() for piece in pieces)
    return sum(math.prod(piece.shape) for piece in pieces)


@lru_cache(maxsize=64)
def num_active_parameters(config: ModelConfig) -> int:
    """Count the numbers that a token is computed with: of experts those of its own."""
    idle = 0
    for layer in range(config.num_hidden_layers):
        experts = config.experts_of(layer)
        if experts is not None:
            one = sum(math.prod(merged_shape(config, name, layer)) for name in EXPERTS_MERGED)
            idle += (experts.num_experts - experts.num_experts_per_tok) * one
    return num_parameters(config) - idle


@lru_cache(maxsize=64)
def num_expert_layers(config: ModelConfig) -> int:
    """Count the layers that have experts in the MLP's place."""
    return sum(config.experts_of(n) is not None for n in range(config.num_hidden_layers))
