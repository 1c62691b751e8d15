"""Operations, logits and gradients on the simulated NPU are those of the CPU, to the last bit.

The simulation computes with the CPU's kernels on the same bytes, so this proves that everything is
placed on the device and that its branches are taken, not how Ascend's kernels round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from danlu import ops
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear, Dropout
from danlu.model.qwen3 import plain_linear
from danlu.ops import reference
from danlu.train.loop.loss import loss_backward
from tests.helpers.models.packed import (
    packed_attention,
    packed_logits,
    random_adapter,
    random_tokens,
)
from tests.helpers.models.tiny_model import tiny_model

LENGTHS = [9, 1, 14]
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"]
)
Operation = Callable[..., Tensor]


def assert_same(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Compare what the NPU gave with what the CPU gave."""
    for index, (g, e) in enumerate(zip(got, expected, strict=True)):
        assert (g.device.type, e.device.type) == ("npu", "cpu")
        assert torch.equal(g.cpu(), e), f"output {index}"


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ops.segment_attention(q, k, v, ops.Segments.of([4, 1, 7], q.device))


def attention_twin(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return reference.segment_attention(q, k, v, torch.tensor([0, 4, 5, 12]).to(q.device))


def rotated(rotated_qkv: Callable[..., Sequence[Tensor]]) -> Operation:
    """Make one of five tokens, as one tensor; 4 heads and twice 2 of 16 numbers."""

    def joined(qkv: Tensor, *norms: Tensor) -> Tensor:
        table = ops.rotary_table(600, 16, 1e6, device=qkv.device, dtype=qkv.dtype)
        positions = torch.arange(5, device=qkv.device) * 131
        angles = [part.index_select(0, positions) for part in table]
        return torch.cat(list(rotated_qkv(qkv, *norms, 1e-6, *angles, 2)), dim=1)

    return joined


OPERATIONS: dict[str, tuple[Operation, Operation, list[Tensor]]] = {
    "rms_norm": (
        lambda x, w: ops.rms_norm(x, w, 1e-6),
        lambda x, w: reference.rms_norm(x, w, 1e-6),
        [random(5, 3, 32), random(32)],
    ),
    "rotated_qkv": (
        rotated(ops.rotated_qkv),
        rotated(reference.rotated_qkv),
        [random(5, 8 * 16), random(16), random(16) * 2],
    ),
    "swiglu": (ops.swiglu, reference.swiglu, [random(7, 64)]),
    "cross_entropy": (
        lambda x: ops.cross_entropy_sum(x, torch.arange(5, device=x.device)),
        lambda x: reference.cross_entropy_sum(x, torch.arange(5, device=x.device)),
        [random(5, 300)],
    ),
    "attention": (
        attention,
        attention_twin,
        [random(12, 4, 16), random(12, 2, 16), random(12, 2, 16) * 2],
    ),
}


def value_and_gradients(
    operation: Operation, tensors: Sequence[Tensor], device: str, dtype: torch.dtype
) -> list[Tensor]:
    """The result, then every gradient under a fixed random upstream gradient."""
    leaves = [t.to(device, dtype, copy=True).requires_grad_() for t in tensors]
    result = operation(*leaves)
    upstream = random(*result.shape).to(device, result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, upstream)]


@both_dtypes
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str, dtype: torch.dtype) -> None:
    ours, _twin, tensors = OPERATIONS[name]
    found = [value_and_gradients(ours, tensors, device, dtype) for device in ("npu", "cpu")]
    assert_same(*found)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_agree_with_their_twins_there(name: str) -> None:
    """In fp32, where only the order of sums differs; tests/ops has more, on the CPU."""
    ours, twin, tensors = OPERATIONS[name]
    got, expected = (
        value_and_gradients(operation, tensors, "npu", torch.float32) for operation in (ours, twin)
    )
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max().item() <= 2e-6 * max(e.abs().max().item(), 1.0)


@both_dtypes
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits(tied: bool, dtype: torch.dtype) -> None:
    logits = {}
    for device in ("cpu", "npu"):
        config, model = tiny_model(tie_word_embeddings=tied, device=device)
        tokens = random_tokens(config, sum(LENGTHS)).to(device)
        with torch.no_grad():
            logits[device] = packed_logits(model.to(dtype), tokens, LENGTHS)
    assert_same([logits["npu"]], [logits["cpu"]])


@both_dtypes
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_loss_and_gradients(full: bool, dtype: torch.dtype) -> None:
    """One micro-batch as the trainer computes it; LoRA with dropout, whose masks must agree."""
    found = {}
    for device in ("cpu", "npu"):
        config, model = tiny_model(device=device)
        model.to(dtype)
        leaves = dict(model.named_parameters())
        linear = plain_linear
        if full:
            model.requires_grad_(True)
        else:
            adapter = random_adapter(LoraConfig(r=4), config, device=device)
            leaves = dict(adapter.parameters())
            segments = [(f"row {n}", length) for n, length in enumerate(LENGTHS)]
            noise = Dropout(probability=0.3, seed=11, step=7, segments=segments)
            linear = AdapterLinear(adapter, noise)
        tokens, targets = (random_tokens(config, sum(LENGTHS), n).to(device) for n in (0, 1))
        attend = packed_attention(config, LENGTHS, device)
        loss = loss_backward(
            model, linear, model(tokens, attend, linear), targets, divisor=len(targets)
        )
        found[device] = [loss, *(leaf.grad for leaf in leaves.values())]
    assert_same(found["npu"], found["cpu"])
