"""Which Hugging Face tensors make up each of our merged tensors. No torch here.

q, k and v are stored as one matrix, gate and up as another: one large product instead of three
or two. Those of all experts of a layer stand below each other, expert after expert. Everything that
reads or writes files goes through this table, so files keep Hugging Face's names and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
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
# Those of the attention: experts have none of them.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# Those that each expert has of its own, where a layer has experts.
EXPERTS_MERGED = ("gate_up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One Hugging Face tensor inside a merged tensor: rows [start, start + shape[0])."""

    hf_name: str
    start: int
    shape: tuple[int, ...]


def num_experts(config: ModelConfig, merged: str, layer: int) -> int | None:
    """Return how many experts' matrices a merged projection holds; None where it is no expert's."""
    experts = config.experts_of(layer) if merged in EXPERTS_MERGED else None
    return None if experts is None else experts.num_experts


def projection_shape(config: ModelConfig, name: str, layer: int) -> tuple[int, int]:
    """Return (out, in) features of a Hugging Face projection such as `q_proj`; of one expert's."""
    hidden, inner = config.hidden_size, config.intermediate_size
    experts = config.experts_of(layer)
    if experts is not None:
        inner = experts.moe_intermediate_size
    return {
        "q_proj": (config.q_size, hidden),
        "k_proj": (config.kv_size, hidden),
        "v_proj": (config.kv_size, hidden),
        "o_proj": (hidden, config.q_size),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }[name]


def expert_target(expert: int, name: str) -> str:
    """Return the name of an expert's projection inside its layer: `experts.3.up_proj`."""
    return f"experts.{expert}.{name}"


def projection_module(layer: int, name: str) -> str:
    """Return the Hugging Face module path of a projection: `model.layers.0.mlp.up_proj`."""
    parent = "self_attn" if name in ATTENTION else "mlp"
    return f"model.layers.{layer}.{parent}.{name}"


@lru_cache(maxsize=4096)  # asked for each of thousands of plans
def merged_shape(config: ModelConfig, name: str, layer: int) -> tuple[int, int]:
    """Return (out, in) features of a merged projection such as `qkv_proj`; of one expert's."""
    shapes = [projection_shape(config, part, layer) for part in PROJECTIONS[name]]
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
        experts = config.experts_of(layer)
        if experts is not None:
            of_router = (experts.num_experts, config.hidden_size)
            whole[f"{ours}.router"] = (f"{hf}.mlp.gate.weight", of_router)
        for merged in PROJECTIONS:
            table[f"{ours}.{merged}"] = tuple(_pieces(config, merged, layer))
    for name, (hf_name, shape) in whole.items():
        table[name] = (Piece(hf_name=hf_name, start=0, shape=shape),)
    return table


@dataclass(frozen=True, kw_only=True)
class MergedTensor:
    """A tensor that holds a projection of all experts of a layer, as we have it in memory."""

    hf_name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


def merged_tensors(config: ModelConfig) -> Iterator[MergedTensor]:
    """List the tensors that may stand in a file for those of all experts: transformers 5 has them.

    Files usually hold the matrices of each expert.
    """
    for layer in range(config.num_hidden_layers):
        for merged in PROJECTIONS:
            count = num_experts(config, merged, layer)
            if count is not None:
                yield MergedTensor(
                    hf_name=projection_module(layer, f"experts.{merged}"),
                    shape=(count, *merged_shape(config, merged, layer)),
                    pieces=tuple(_pieces(config, merged, layer)),
                )


def _pieces(config: ModelConfig, merged: str, layer: int) -> Iterator[Piece]:
    """List what a merged projection is made of, in the order of its rows."""
    shapes = {part: projection_shape(config, part, layer) for part in PROJECTIONS[merged]}
    count = num_experts(config, merged, layer)
    start = 0
    for expert in [None] if count is None else range(count):
        for part, shape in shapes.items():
            name = part if expert is None else expert_target(expert, part)
            yield Piece(
                hf_name=f"{projection_module(layer, name)}.weight", start=start, shape=shape
            )
            start += shape[0]
