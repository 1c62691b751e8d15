"""A complete tiny model on disk, as a user would download it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from danlu.files.committed import committed_folder
from danlu.hub.save import write_model
from danlu.text.tokenizer import Tokenizer
from tests.helpers.models.tiny_model import tiny_model
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer


def write_model_folder(
    folder: Path, *, dtype: torch.dtype = torch.bfloat16, seed: int = 0, **overrides: Any
) -> Path:
    """Write config, generation config, tokenizer and weights; returns the folder."""
    like = folder.parent / f"{folder.name}.like"
    like.mkdir(parents=True)
    write_tiny_tokenizer(like)
    vocab_size = -(-Tokenizer.load(like).vocab_size // 64) * 64
    config, model = tiny_model(vocab_size=vocab_size, seed=seed, **overrides)
    end = Tokenizer.load(like).control_id("<|im_end|>")
    fields = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "attention_bias": False,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": "float32",
        "eos_token_id": end,
    }
    if config.experts is not None:
        fields |= {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
        fields |= dataclasses.asdict(config.experts)
    (like / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (like / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [end], "temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        encoding="utf-8",
    )
    with committed_folder(folder) as draft:
        write_model(draft, model.to(dtype), like=like)
    return folder
