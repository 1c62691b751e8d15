"""What a published model needs on a device, to chat and to be fine-tuned, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from danlu.device.datasheets import DeviceFacts
from danlu.model.config import ModelConfig, Quantization
from danlu.model.layout import PROJECTIONS
from danlu.model.quantized import fits, quantized_bytes
from danlu.plan.choose import USABLE, NothingFits, choose
from danlu.plan.job import Job
from danlu.plan.workload import ExampleShape, Workload

# One conversation of this many tokens; how a common run is: LoRA of rank 8, 16 rows a step, cut at
# 1,024 tokens, a third of each learned.
CHAT_TOKENS = 8192
RANK, ROWS, ROW_TOKENS = 8, 16, 1024

_DTYPE = torch.bfloat16
_CHAT: dict[str, Quantization | None] = {"bf16": None, "int8": "int8", "int4": "int4"}


@dataclass(frozen=True, kw_only=True)
class Need:
    """The least memory that something takes on a device, and whether it is there."""

    num_bytes: int
    fits: bool


def needs(config: ModelConfig, device: DeviceFacts, budget_bytes: int) -> dict[str, Need]:
    """Return the needs by what is done: chat in bf16, int8, int4; LoRA and full training, in bf16.

    A form that a model does not have there is not in the answer.
    """
    return {
        name: Need(num_bytes=num_bytes, fits=num_bytes <= USABLE * budget_bytes)
        for name, num_bytes in _needed_bytes(config, device).items()
    }


@lru_cache(maxsize=64)
def _needed_bytes(config: ModelConfig, device: DeviceFacts) -> Mapping[str, int]:
    found = {
        f"chat_{name}": _chat_bytes(config, device, quantization)
        for name, quantization in _CHAT.items()
        if _has_form(config, device, quantization)
    }
    lora = {part: RANK for parts in PROJECTIONS.values() for part in parts}
    found["lora"] = _training_bytes(config, device, lora)
    found["full"] = _training_bytes(config, device, None)
    return found


def _has_form(config: ModelConfig, device: DeviceFacts, quantization: Quantization | None) -> bool:
    if quantization is None:
        return True
    return fits(config, quantization)


def _chat_bytes(config: ModelConfig, device: DeviceFacts, quantization: Quantization | None) -> int:
    """Return the bytes of the program, weights, keys and values, and one answer's logits."""
    number_bytes = _DTYPE.itemsize
    weights = quantized_bytes(config, _DTYPE, quantization, device.kind)
    cache = 2 * config.num_hidden_layers * config.kv_size * number_bytes * CHAT_TOKENS
    logits = config.vocab_size * (number_bytes + 4)  # as computed, and in fp32 for the draw
    return device.context_bytes + weights + cache + logits


def _training_bytes(
    config: ModelConfig, device: DeviceFacts, ranks: Mapping[str, int] | None
) -> int:
    """Return the memory of the leanest way to compute a step."""
    row = ExampleShape(tokens=ROW_TOKENS, targets=ROW_TOKENS // 3)
    workload = Workload(steps=[[row] * ROWS], evaluation=[], total_steps=100, num_evaluations=0)
    job = Job(config=config, number_bytes=_DTYPE.itemsize, ranks=ranks)
    found = choose(job, workload, device, budget_bytes=0)
    assert isinstance(found, NothingFits)  # nothing fits into no memory
    return found.leanest.memory.total
