"""Packed batches of random tokens, and our model's logits for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.lora.adapter import Adapter, LoraConfig
from danlu.model.attention import PackedAttention
from danlu.model.config import ModelConfig
from danlu.model.qwen3 import Linear, Qwen3, plain_linear
from danlu.ops import Segments


def random_tokens(config: ModelConfig, count: int, seed: int = 0) -> Tensor:
    """Token ids [count]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size, (count,), generator=generator)


def packed_attention(
    config: ModelConfig, lengths: Sequence[int], device: torch.device | str = "cpu"
) -> PackedAttention:
    """`attend` for segments of these lengths, each starting at position 0."""
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    return PackedAttention(config, positions, Segments.of(lengths, device))


def packed_logits(
    model: Qwen3, tokens: Tensor, lengths: Sequence[int], linear: Linear = plain_linear
) -> Tensor:
    """Logits [T, vocab] of packed segments, each starting at position 0."""
    hidden = model(tokens, packed_attention(model.config, lengths, tokens.device), linear)
    return linear(model.head, "lm_head", hidden)


def random_adapter(
    config: LoraConfig, model: ModelConfig, seed: int = 0, device: str = "cpu"
) -> Adapter:
    """An adapter whose B is not zero, in fp32: one that changes the model."""
    adapter = Adapter(config, model, device=torch.device(device), dtype=torch.float32)
    adapter.initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    for _layer, _target, _a, b in adapter.tensors():
        b.copy_(torch.empty(b.shape).normal_(std=0.1, generator=generator))
    return adapter
