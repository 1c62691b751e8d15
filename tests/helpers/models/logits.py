"""All logits of one text, as the engine's pair of arguments computes them."""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.lora.adapter import Adapter
from danlu.lora.bank import AdapterBank
from danlu.model.qwen3 import Qwen3
from tests.helpers.models.packed import packed_attention


@torch.inference_mode()
def logits(model: Qwen3, tokens: list[int], adapter: Adapter | None = None) -> Tensor:
    """Return [tokens, vocab_size] in fp32."""
    linear = AdapterBank([(adapter, len(tokens))])
    attend = packed_attention(model.config, [len(tokens)])
    return linear(model.head, "lm_head", model(torch.tensor(tokens), attend, linear)).float()
