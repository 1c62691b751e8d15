"""What one layer of a model starts and moves, forward and backward, counted on the running code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from danlu.device.datasheets import DeviceFacts
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.config import ModelConfig
from danlu.model.qwen3 import Linear, plain_linear
from danlu.model.recompute import Recompute
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.speed import nominal_speed, seconds_of
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import tiny_model

# What moves nothing, and what is counted as products or as attention.
VIEWS = {
    "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided",
    "expand", "new_empty", "permute", "select", "slice", "split", "split_with_sizes", "squeeze",
    "t", "transpose", "unbind", "unsafe_split", "unsqueeze", "view",
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "bmm", "addmm_"}


class Counting(TorchDispatchMode):
    """Counts the operations that run, and the bytes that all but products read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.started: Counter[str] = Counter()
        self.moved_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name in VIEWS:
            return out
        self.started[name] += 1
        if name not in PRODUCTS and "attention" not in name:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if torch.is_tensor(leaf)]
            self.moved_bytes += sum(tensor.nbytes for tensor in tensors)
        return out


def counted(
    layers: int, lengths: list[int], policy: Recompute, lora: LoraConfig | None, device: str = "cpu"
) -> tuple[ModelConfig, Counter[str], int]:
    """Compute a batch of a small model forward and backward; what it did.

    Returns the operations that it started and the bytes that all but products moved.
    """
    config, model = tiny_model(num_hidden_layers=layers, device=device)
    model.to(torch.bfloat16)
    linear: Linear = plain_linear
    if lora is None:
        model.requires_grad_(True)
    else:
        adapter = random_adapter(lora, config, device=device)
        for _name, parameter in adapter.parameters():
            parameter.requires_grad_(True)
            parameter.grad = torch.zeros_like(parameter)
        linear = AdapterLinear(adapter, keeps_normed=policy not in ("selective", "gate_up"))
    tokens = random_tokens(config, sum(lengths)).to(device)
    attend = packed_attention(config, lengths, device)
    with Counting() as counting:
        hidden = model(tokens, attend, linear, policy)
        hidden.backward(torch.ones_like(hidden))
    return config, counting.started, counting.moved_bytes


def moved_by_token(policy: Recompute, lora: LoraConfig | None, device: str = "cpu") -> float:
    """Return the numbers in bf16 that a layer moves for a token: what depends on neither is out."""
    moved = [
        [counted(layers, [length] * 4, policy, lora, device)[2] for length in (8, 32)]
        for layers in (2, 4)
    ]
    return (moved[1][1] - moved[0][1] - moved[1][0] + moved[0][0]) / (2 * 4 * 24)


def planned(
    config: ModelConfig, policy: Recompute, lora: LoraConfig | None, card: DeviceFacts
) -> tuple[float, float]:
    """Return what the plan says of a layer: operations, and numbers in bf16 that a token moves."""
    ranks = None if lora is None else dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=config, number_bytes=2, ranks=ranks)
    plan = StepPlan(micro_batch_tokens=64, chunk_rows=64, recompute=policy)
    # Products take no time.
    bare = replace(card, kind="cuda", flops=1e30, reread=0.0)
    starting = replace(bare, launch_s=1.0, bandwidth=1e30)
    moving = replace(bare, launch_s=0.0, bandwidth=1.0)

    def seconds(device: DeviceFacts, tokens: int) -> float:
        shape = BatchShape(tokens=tokens, targets=0, squares=0, segments=0)
        predicted = seconds_of(job, plan, shape, device, nominal_speed(device, 2))
        return predicted / config.num_hidden_layers

    return seconds(starting, 32), (seconds(moving, 64) - seconds(moving, 32)) / 32
