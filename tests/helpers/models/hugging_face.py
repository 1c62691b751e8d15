"""The oracle: the same tiny model in transformers, and the same adapter in PEFT."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from danlu.lora.adapter import Adapter
from danlu.model.layout import projection_module
from danlu.model.qwen3 import Qwen3


def transformers_twin(
    model: Qwen3, dtype: torch.dtype = torch.float32
) -> Qwen3ForCausalLM | Qwen3MoeForCausalLM:
    """A transformers model with the same weights."""
    config = model.config
    fields: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    twin: Qwen3ForCausalLM | Qwen3MoeForCausalLM
    if config.experts is None:
        twin = Qwen3ForCausalLM(Qwen3Config(**fields))
    else:
        experts = dataclasses.asdict(config.experts)
        experts["mlp_only_layers"] = list(config.experts.mlp_only_layers)
        twin = Qwen3MoeForCausalLM(Qwen3MoeConfig(**fields, **experts))
    twin = twin.to(dtype).eval()
    weights = twin.state_dict()
    for name, tensor in model.hf_tensors():
        place_of(name, weights).copy_(tensor)
    return twin


_OF_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def place_of(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Find a tensor by its name in a file; transformers has those of all experts in one."""
    match = _OF_EXPERT.fullmatch(name)
    if match is None:
        return tensors[name]
    experts, number, kind = match.groups()
    if kind == "down":
        return tensors[f"{experts}.down_proj"][int(number)]
    whole = tensors[f"{experts}.gate_up_proj"][int(number)]
    half = len(whole) // 2
    return whole[:half] if kind == "gate" else whole[half:]


def peft_twin(twin: Qwen3ForCausalLM, adapter: Adapter) -> PeftModel:
    """The same adapter in PEFT, over a copy of the transformers model."""
    config = adapter.config
    wrapped = get_peft_model(
        copy.deepcopy(twin),
        PeftConfig(
            r=config.r,
            lora_alpha=config.lora_alpha,
            use_rslora=config.use_rslora,
            target_modules=list(config.target_modules),
        ),
    )
    for layer, target, a, b in adapter.tensors():
        peft_matrix(wrapped, layer, target, "A").data.copy_(a)
        peft_matrix(wrapped, layer, target, "B").data.copy_(b)
    return wrapped


def peft_matrix(wrapped: PeftModel, layer: int, target: str, letter: str) -> torch.nn.Parameter:
    """PEFT's own parameter of one LoRA matrix."""
    name = f"base_model.model.{projection_module(layer, target)}.lora_{letter}.default.weight"
    parameter = wrapped.get_parameter(name)
    assert isinstance(parameter, torch.nn.Parameter)
    return parameter


def segment_logits(twin: torch.nn.Module, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
    """Logits of each segment run alone, joined: [T, vocab]."""
    parts = [twin(input_ids=part[None]).logits[0] for part in tokens.split(list(lengths))]
    return torch.cat(parts)
