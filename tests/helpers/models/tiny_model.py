"""A tiny random Qwen3 in fp32: the same weights for the same seed and shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from danlu.model.config import ExpertsConfig, ModelConfig, WeightForm
from danlu.model.quantized import quantized_model
from danlu.model.qwen3 import Qwen3

TINY = ModelConfig(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
    dtype="float32",
)
# Experts in the first and the third layer of three, two for each token.
EXPERTS = ExpertsConfig(
    num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, mlp_only_layers=(1,)
)


def tiny_model(
    *, seed: int = 0, device: str = "cpu", **overrides: Any
) -> tuple[ModelConfig, Qwen3]:
    """Build the model on a device; overrides are fields of ModelConfig."""
    config = replace(TINY, **overrides)
    # Built there, as danlu loads one: moving a module to an NPU would untie its tied weights.
    model = Qwen3(config, device=torch.device(device), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for _name, tensor in model.hf_tensors():
        values = torch.empty(tensor.shape)
        if tensor.dim() == 1:  # a norm weight: around one, so that a forgotten one is noticed
            values.uniform_(0.5, 1.5, generator=generator)
        else:
            values.normal_(std=0.1, generator=generator)
        tensor.copy_(values)
    return config, model


def in_fp8(plain: Qwen3) -> Qwen3:
    """Build the same model with its projections in fp8."""
    return quantized_tiny(plain, "fp8")


def quantized_tiny(plain: Qwen3, form: WeightForm, *, keeps_head: bool = True) -> Qwen3:
    """Build the same model with its projections in a form; keeps_head: as below an adapter."""
    tensors, like = dict(plain.hf_tensors()), plain.embed_tokens

    def read_into(name: str, destination: torch.Tensor) -> None:
        destination.copy_(tensors[name])

    return quantized_model(
        plain.config,
        form,
        read_into,
        device=like.device,
        dtype=like.dtype,
        keeps_head=keeps_head,
    )
