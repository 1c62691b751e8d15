"""The plan's time against what a step really does: operations started, numbers moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from danlu.device.datasheets import DeviceFacts, cpu_facts
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.qwen3 import Linear, plain_linear
from danlu.model.recompute import POLICIES, Recompute
from danlu.model.sizes import published_config
from danlu.ops.attention import ATTENTION
from danlu.ops.product import RESIDUAL
from danlu.ops.rope import ROTATED_QKV
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.speed import nominal_speed, seconds_of
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import tiny_model
from tests.helpers.models.variants import taken

LORA = LoraConfig(r=4)
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


def counted(layers: int, lengths: list[int], policy: Recompute, lora: LoraConfig | None) -> Any:
    """Compute a batch of a small model forward and backward; what it started and moved."""
    config, model = tiny_model(num_hidden_layers=layers)
    model.to(torch.bfloat16)
    linear: Linear = plain_linear
    if lora is None:
        model.requires_grad_(True)
    else:
        adapter = random_adapter(lora, config)
        for _name, parameter in adapter.parameters():
            parameter.requires_grad_(True)
            parameter.grad = torch.zeros_like(parameter)
        linear = AdapterLinear(adapter, keeps_normed=policy not in ("selective", "gate_up"))
    with Counting() as counting:
        hidden = model(
            random_tokens(config, sum(lengths)),
            packed_attention(config, lengths),
            linear,
            policy,
        )
        hidden.backward(torch.ones_like(hidden))
    return config, sum(counting.started.values()), counting.moved_bytes


def bare(launch_s: float = 0.0, bytes_per_s: float = 1e30) -> DeviceFacts:
    """A device on which products take no time."""
    return DeviceFacts(
        name="bare", kind="cuda", description="", memory_bytes=2**40, context_bytes=0, flops=1e30,
        flops_fp32=1e30, bandwidth=bytes_per_s, launch_s=launch_s, reread=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_operations_and_bytes_are_those_of_a_layer(
    policy: Recompute, lora: LoraConfig | None
) -> None:
    short, long = [8] * 4, [32] * 4
    # As cards compute.
    with (
        taken(ATTENTION, "sdpa"),
        taken(RESIDUAL, "in_product"),
        taken(ROTATED_QKV, "as_one"),
    ):
        counted(2, short, policy, lora)  # what is made once does not count
        config, few, _bytes = counted(2, short, policy, lora)
        _config, many, _bytes = counted(4, short, policy, lora)
        # What a token moves in a layer: the rest depends on neither.
        moved = [
            [counted(layers, lengths, policy, lora)[2] for lengths in (short, long)]
            for layers in (2, 4)
        ]
    by_token = (moved[1][1] - moved[0][1] - moved[1][0] + moved[0][0]) / (2 * 4 * 24)
    ranks = None if lora is None else dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=config, number_bytes=2, ranks=ranks)
    plan = StepPlan(micro_batch_tokens=64, chunk_rows=64, recompute=policy)

    def predicted(device: DeviceFacts, tokens: int) -> float:
        shape = BatchShape(tokens=tokens, targets=0, squares=0, segments=0)
        return seconds_of(job, plan, shape, device, nominal_speed(device, 2))

    layers = config.num_hidden_layers
    segments = 2 if policy == "none" else 3
    started = (many - few) / 2 - 4 * segments
    assert predicted(bare(launch_s=1.0), 32) / layers == pytest.approx(started, rel=1e-6)
    numbers = (predicted(bare(bytes_per_s=1.0), 64) - predicted(bare(bytes_per_s=1.0), 32)) / 32
    assert numbers / layers == pytest.approx(by_token, rel=0.05)


def test_a_layer_computed_again_costs_what_was_measured_on_a_cpu() -> None:
    """512 tokens of Qwen3-0.6B on two cores: 3.3 s, and what the policies cost beside `none`."""
    config = published_config("Qwen3-0.6B")
    assert config is not None
    job = Job(config=config, number_bytes=2, ranks=dict.fromkeys(LORA.target_modules, 8))
    cpu = cpu_facts(description="cpu", memory_bytes=2**34, threads=2, has_fast_bf16=True)
    shape = BatchShape(tokens=512, targets=0, squares=4 * 128 * 128, segments=4)

    def seconds(policy: Recompute) -> float:
        plan = StepPlan(micro_batch_tokens=512, chunk_rows=128, recompute=policy)
        return seconds_of(job, plan, shape, cpu, nominal_speed(cpu, 2))

    measured = {"selective": 1.08, "gate_up": 1.24, "block": 1.37}
    for policy in ("selective", "gate_up", "block"):
        assert seconds(policy) / seconds("none") == pytest.approx(measured[policy], rel=0.05)
    assert seconds("none") == pytest.approx(3.3, rel=0.15)
