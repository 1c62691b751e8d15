"""How much memory answering needs: the program, the weights, and the cache of keys and values."""

from __future__ import annotations

from danlu.device.datasheets import DeviceFacts
from danlu.model.config import ModelConfig


def answering_bytes(
    config: ModelConfig, device: DeviceFacts, *, weight_bytes: int, number_bytes: int, tokens: int
) -> int:
    """Predict the memory of answering with `tokens` tokens of prompt and answer at once.

    weight_bytes: what the weights take, quantised or not. number_bytes: of a key or value.
    """
    cache = 2 * config.num_hidden_layers * config.kv_size * number_bytes * tokens
    # The logits of one answer, as computed and in fp32 for the draw.
    logits = config.vocab_size * (number_bytes + 4)
    return device.context_bytes + weight_bytes + cache + logits
