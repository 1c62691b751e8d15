"""The plan's memory against the exact peak that the simulated card counts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from danlu.data.tokens.pack import pack
from danlu.device.datasheets import CATALOGUE, DeviceFacts
from danlu.device.variants import FLASH, AttentionFacts
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.config import ModelConfig
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops import cross_entropy_rows, rotary_table
from danlu.ops.ascend.fusion_attention import compressed_mask
from danlu.ops.attention import ATTENTION
from danlu.ops.nvidia import late_import
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.memory import batch_bytes, layer_bytes, loss_bytes, memory_of
from danlu.train.loop.batches import stage
from danlu.train.loop.loss import loss_backward, supervised_hidden
from danlu.train.loop.method import FullMethod, LoraMethod, Method
from danlu.train.loop.optimizer import Optimizer
from tests.helpers.models.counting import STAND_INS
from tests.helpers.models.variants import ascend_variants, nvidia_variants
from tests.helpers.training.trainers import loaded_tiny, random_rows
from tests.sim.fused_attention import fused_attention, packed_attention
from tests.sim.memory import MEMORY
from tests.sim.record import unrecorded

FUSED = CATALOGUE["ascend-910b-64g"]
# The attention that stands in for a kernel called for each segment keeps no mask.
PLAIN = replace(FUSED, attention=AttentionFacts(), fused="")
NVIDIA = CATALOGUE["h100-80g"]


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What a microstep took, in bytes, part by part."""

    weights: int
    trained: int
    kept: int
    loss: int
    layer: int
    whole: int


@pytest.fixture(params=[PLAIN, FUSED, NVIDIA], ids=["plain", "fused", "nvidia"])
def card(request: pytest.FixtureRequest) -> Iterator[DeviceFacts]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param is PLAIN:
            patch.setitem(ATTENTION._chosen, "npu", ("sdpa", fused_attention))
            yield PLAIN
        elif request.param is NVIDIA:
            patch.setitem(ATTENTION._chosen, "npu", (FLASH, packed_attention))
            patch.setattr(late_import, "_function", on_the_host)
            with nvidia_variants("npu"):
                yield NVIDIA
        else:
            compressed_mask(torch.device("npu", 0))  # made once
            with ascend_variants():
                yield FUSED


def on_the_host(module: str, name: str) -> Callable[..., Any]:
    """Compute in a Triton kernel's place, so that the card's memory sees what comes out only."""
    if module == "loss":
        return _InPlace.apply  # type: ignore[no-any-return]

    def call(*arguments: Any) -> Any:
        with unrecorded():
            here = tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), arguments)
        found = STAND_INS[module, name](*here)
        if (module, name) == ("rotation", "forward"):
            q, k, v = found  # the values stay where they are
            qkv, head_dim = arguments[0], q.shape[2]
            return to_card(q), to_card(k), qkv.view(len(qkv), -1, head_dim)[:, -v.shape[1] :]
        return tree_map_only(torch.Tensor, to_card, found)

    return call


def to_card(tensor: torch.Tensor) -> torch.Tensor:
    with unrecorded():
        return tensor.to("npu")


class _InPlace(torch.autograd.Function):
    """Cross-entropy whose gradient takes the memory of the logits; it keeps a number a row."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ctx.logits, ctx.log_sums = logits.detach(), logits.new_empty(len(logits)).float()
        ctx.save_for_backward(targets)
        with unrecorded():
            return cross_entropy_rows(logits.cpu(), targets.cpu()).sum().to("npu")

    @staticmethod
    def backward(ctx: Any, _grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, ctx.logits = ctx.logits, None
        return logits.mul_(1e-3), None


def allocated() -> int:
    gc.collect()
    return MEMORY.allocated


def measured(
    folder: Path,
    method_of: Callable[[LoadedModel], Method],
    way: StepPlan,
    sizes: Mapping[str, int],
) -> tuple[Peaks, BatchShape, ModelConfig]:
    """Compute a microstep of a tiny model; what is made once is there before."""
    empty = allocated()
    gc.freeze()  # what was there before need not be looked through at each collection
    base = loaded_tiny(folder, torch.bfloat16, "npu", **sizes)
    device = base.device.torch_device
    weights = allocated() - empty
    method = method_of(base)
    optimizer = Optimizer(method.parameters(), weight_decay=0.0)
    optimizer.zero_grad()
    (batch,) = pack([example for row in random_rows(40) for example in row], 10_000)
    linear = method.linear(batch, 0, way.recompute)
    if isinstance(linear, AdapterLinear):
        linear.adapter.working(torch.bfloat16)
    trained = allocated() - empty - weights
    rotary_table(
        1, base.config.head_dim, base.config.rope_theta, device=device, dtype=torch.bfloat16
    )
    before = MEMORY.peak = allocated()
    hidden, targets = supervised_hidden(base, linear, stage(batch, device), way.recompute)
    kept = allocated() - before
    forward = MEMORY.peak - before
    MEMORY.peak = MEMORY.allocated
    found: list[int] = []

    def between(_gradient: torch.Tensor) -> None:
        """Called when the loss is done, before the layers are."""
        found.extend((MEMORY.peak - before - kept, MEMORY.allocated - before - kept))
        MEMORY.peak = MEMORY.allocated

    hidden.register_hook(between)
    rows = way.chunk_rows
    loss_backward(base.model, linear, hidden, targets, divisor=1.0, chunk_rows=rows)
    loss, left = found
    layers = MEMORY.peak - before
    peaks = Peaks(
        weights=weights,
        trained=trained,
        kept=kept,
        loss=loss - left,
        layer=layers - kept - left,
        whole=max(forward, kept + loss, layers),
    )
    shape = BatchShape(
        tokens=batch.num_tokens,
        targets=batch.num_targets,
        squares=sum(length**2 for length in batch.segment_lengths),
        segments=len(batch.segment_lengths),
    )
    return peaks, shape, base.config


# Where the MLP takes most, as in Qwen3-8B, and where QK-norm and RoPE do, as in Qwen3-0.6B; where
# the vocabulary is large, the loss does.
SIZES = {
    "mlp": {"hidden_size": 128, "intermediate_size": 512, "head_dim": 16, "vocab_size": 2000},
    "attention": {"hidden_size": 64, "intermediate_size": 96, "head_dim": 64, "vocab_size": 2000},
    "loss": {"hidden_size": 64, "intermediate_size": 192, "head_dim": 16, "vocab_size": 20_000},
}


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "sizes",
    # The loss is the same with every policy: one of them is asked at a desk.
    [
        pytest.param(SIZES["mlp"], id="mlp"),
        pytest.param(SIZES["attention"], id="attention"),
        pytest.param(SIZES["loss"], id="loss", marks=pytest.mark.soak),
    ],
)
def test_every_part_of_a_microsteps_memory_is_what_was_planned(
    tmp_path: Path, full: bool, policy: Recompute, sizes: Mapping[str, int], card: DeviceFacts
) -> None:
    lora = LoraConfig(r=4)
    way = StepPlan(micro_batch_tokens=10_000, chunk_rows=64, recompute=policy)
    peaks, shape, config = measured(
        tmp_path / "model",
        FullMethod if full else lambda base: LoraMethod.fresh(base, lora, seed=1),
        way,
        sizes,
    )
    ranks = None if full else dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=config, number_bytes=2, ranks=ranks)
    memory = memory_of(job, way, shape, card)
    assert peaks.weights == memory.weights
    # A few scalars are not counted, such as AdamW's number of updates.
    assert 0 <= peaks.trained - memory.trained <= 64
    # Where each segment is called for by itself, the offsets are kept, too.
    kept = memory.activations + batch_bytes(job, shape, card)
    assert 0 <= kept - peaks.kept <= (4 * (shape.segments + 1) if card.fused else 0)
    planned = loss_bytes(job, way, shape, card)
    if card is NVIDIA:
        # Beside logits that nothing copies, the gradients of their rows count, or not any more.
        assert peaks.loss == pytest.approx(planned, rel=0.04)
    else:
        assert 0 <= peaks.loss - planned <= 64 * 10  # two numbers a row
    # With heads of 16 numbers; those of larger ones cost a little less.
    planned = layer_bytes(job, policy, card, shape)
    # At the end of the backward pass stands the embedding's gradient; the loss had as much.
    at_the_end = (config.vocab_size + shape.tokens) * config.hidden_size * 2 if full else 0
    assert 0.95 * planned <= peaks.layer <= max(planned, at_the_end)
    # Slack is for a real allocator.
    assert 0.95 * (memory.activations + memory.working) <= peaks.whole
    assert peaks.whole <= memory.activations + memory.working + 64 * 10
