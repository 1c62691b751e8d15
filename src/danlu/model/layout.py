"""Which Hugging Face tensors make up each of our merged tensors. No torch here.

q, k and v are stored as one matrix, gate and up as another: one large product instead of three
or two. Everything that reads or writes files goes through this table, so files keep Hugging
Face's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from danlu.model.config import ModelConfig

# The projections an adapter may change, in Hugging Face's names, by merged projection.
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One Hugging Face tensor inside a merged tensor: rows [start, start + shape[0])."""

    hf_name: str
    start: int
    shape: tuple[int, ...]


def projection_shape(config: ModelConfig, name: str) -> tuple[int, int]:
    """Return (out, in) features of a Hugging Face projection such as `q_proj`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "q_proj": (config.q_size, hidden),
        "k_proj": (config.kv_size, hidden),
        "v_proj": (config.kv_size, hidden),
        "o_proj": (hidden, config.q_size),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }[name]


def projection_module(layer: int, name: str) -> str:
    """Return the Hugging Face module path of a projection: `model.layers.0.mlp.up_proj`."""
    parent = "self_attn" if name in _ATTENTION else "mlp"
    return f"model.layers.{layer}.{parent}.{name}"


@lru_cache(maxsize=1024)  # asked for each of thousands of plans
def merged_shape(config: ModelConfig, name: str) -> tuple[int, int]:
    """Return (out, in) features of a merged projection such as `qkv_proj`."""
    shapes = [projection_shape(config, part) for part in PROJECTIONS[name]]
    return sum(out for out, _ in shapes), shapes[0][1]


def layout(config: ModelConfig) -> dict[str, tuple[Piece, ...]]:
    """Map each of our parameter names to the Hugging Face tensors it is made of."""
    whole: dict[str, tuple[str, tuple[int, ...]]] = {
        "embed_tokens": ("model.embed_tokens.weight", (config.vocab_size, config.hidden_size)),
        "head.norm": ("model.norm.weight", (config.hidden_size,)),
    }
    if not config.tie_word_embeddings:
        whole["head.lm_head"] = ("lm_head.weight", (config.vocab_size, config.hidden_size))
    table: dict[str, tuple[Piece, ...]] = {}
    for layer in range(config.num_hidden_layers):
        hf, ours = f"model.layers.{layer}", f"layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            whole[f"{ours}.{norm}"] = (f"{hf}.{norm}.weight", (config.hidden_size,))
        for norm in ("q_norm", "k_norm"):
            whole[f"{ours}.{norm}"] = (f"{hf}.self_attn.{norm}.weight", (config.head_dim,))
        for merged, parts in PROJECTIONS.items():
            pieces: list[Piece] = []
            start = 0
            for part in parts:
                out_in = projection_shape(config, part)
                hf_name = f"{projection_module(layer, part)}.weight"
                pieces.append(Piece(hf_name=hf_name, start=start, shape=out_in))
                start += out_in[0]
            table[f"{ours}.{merged}"] = tuple(pieces)
    for name, (hf_name, shape) in whole.items():
        table[name] = (Piece(hf_name=hf_name, start=0, shape=shape),)
    return table
