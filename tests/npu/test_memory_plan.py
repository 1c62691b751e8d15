"""The plan's memory against the exact peak that the simulated card counts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from danlu.data.tokens.pack import pack
from danlu.device.datasheets import CATALOGUE, DeviceFacts
from danlu.device.variants import AttentionFacts
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.config import ModelConfig
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops import rotary_table
from danlu.ops.ascend.fusion_attention import compressed_mask
from danlu.ops.attention import ATTENTION
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.memory import batch_bytes, layer_bytes, loss_bytes, memory_of
from danlu.train.loop.batches import stage
from danlu.train.loop.loss import loss_backward, supervised_hidden
from danlu.train.loop.method import FullMethod, LoraMethod, Method
from danlu.train.loop.optimizer import Optimizer
from tests.helpers.models.variants import ascend_variants
from tests.helpers.training.trainers import loaded_tiny, random_rows
from tests.sim.fused_attention import fused_attention
from tests.sim.memory import MEMORY

FUSED = CATALOGUE["ascend-910b-64g"]
# The attention that stands in for a kernel called for each segment keeps no mask.
PLAIN = replace(FUSED, attention=AttentionFacts(), is_fused=False)


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What a microstep took, in bytes, part by part."""

    weights: int
    trained: int
    kept: int
    loss: int
    layer: int
    whole: int


@pytest.fixture(params=[PLAIN, FUSED], ids=["plain", "fused"])
def card(request: pytest.FixtureRequest) -> Iterator[DeviceFacts]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param is PLAIN:
            patch.setitem(ATTENTION._chosen, "npu", ("sdpa", fused_attention))
            yield PLAIN
        else:
            compressed_mask(torch.device("npu", 0))  # made once
            with ascend_variants():
                yield FUSED


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
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
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
    assert 0 <= kept - peaks.kept <= (4 * (shape.segments + 1) if card.is_fused else 0)
    planned = loss_bytes(job, way, shape, card)
    assert 0 <= peaks.loss - planned <= 64 * 10  # two numbers a row
    # With heads of 16 numbers; those of larger ones cost a little less.
    planned = layer_bytes(job, policy, card, shape)
    assert 0.95 * planned <= peaks.layer <= planned
    # Slack is for a real allocator.
    assert 0.95 * (memory.activations + memory.working) <= peaks.whole
    assert peaks.whole <= memory.activations + memory.working + 64 * 10
