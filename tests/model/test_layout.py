"""The table between our merged tensors and Hugging Face's names."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from danlu.model.config import ModelConfig
from danlu.model.layout import PROJECTIONS, layout, merged_shape
from tests.helpers.models.tiny_model import tiny_model


def hf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                tie_word_embeddings=config.tie_word_embeddings,
            )
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:  # the same tensor under a second name; files leave it out
        shapes.pop("lm_head.weight", None)
    return shapes


@pytest.mark.parametrize("tied", [True, False])
def test_covers_exactly_the_tensors_of_transformers(tied: bool) -> None:
    config, model = tiny_model(tie_word_embeddings=tied, num_key_value_heads=1, head_dim=48)
    assert {name: tuple(t.shape) for name, t in model.hf_tensors()} == hf_shapes(config)


def test_pieces_tile_each_merged_tensor() -> None:
    config, model = tiny_model(tie_word_embeddings=False)
    parameters = dict(model.named_parameters())
    table = layout(config)
    assert set(table) == set(parameters)
    for name, pieces in table.items():
        position = 0
        for piece in pieces:
            assert piece.start == position
            position += piece.shape[0]
        assert position == parameters[name].shape[0]
        assert sum(math.prod(p.shape) for p in pieces) == parameters[name].numel()


def test_merged_shapes_are_those_of_the_weights() -> None:
    config, model = tiny_model(num_key_value_heads=4)
    for name in PROJECTIONS:
        assert tuple(getattr(model.layers[0], name).shape) == merged_shape(config, name, 0)


def test_filling_a_piece_fills_the_merged_weight() -> None:
    _config, model = tiny_model()
    tensors = dict(model.hf_tensors())
    tensors["model.layers.1.self_attn.k_proj.weight"].fill_(3.0)
    qkv = model.layers[1].qkv_proj
    assert (qkv[128:192] == 3.0).all()
    assert not (qkv[:128] == 3.0).any()
    assert not (qkv[192:] == 3.0).any()
