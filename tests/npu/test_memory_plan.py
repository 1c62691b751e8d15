"""The plan's memory against the exact peak that the simulated card counts."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.data.tokens.pack import pack
from danlu.device.datasheets import CATALOGUE
from danlu.device.variants import AttentionFacts
from danlu.lora.adapter import LoraConfig
from danlu.model.recompute import POLICIES, Recompute
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.memory import memory_of
from danlu.train.loop.batches import stage
from danlu.train.loop.method import FullMethod, LoraMethod, Method
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.step import microstep
from tests.helpers.training.trainers import loaded_tiny, random_rows
from tests.sim.memory import MEMORY

# The simulation computes attention as the CPU does, which keeps no mask.
CARD = replace(CATALOGUE["ascend-910b-64g"], attention=AttentionFacts())


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_microstep_needs_no_more_than_planned_and_not_much_less(
    tmp_path: Path, full: bool, policy: Recompute
) -> None:
    base = loaded_tiny(tmp_path / "model", torch.bfloat16, "npu")
    lora = LoraConfig(r=4)
    method: Method = FullMethod(base) if full else LoraMethod.fresh(base, lora, seed=1)
    optimizer = Optimizer(method.parameters(), weight_decay=0.0)
    optimizer.zero_grad()
    examples = [example for row in random_rows(40) for example in row]
    (batch,) = pack(examples, 10_000)
    staged = stage(batch, base.device.torch_device)
    way = StepPlan(micro_batch_tokens=10_000, chunk_rows=64, recompute=policy)
    gc.collect()
    before = MEMORY.peak = MEMORY.allocated
    microstep(method, staged, step_plan=way, step=0, divisor=1.0)
    needed = MEMORY.peak - before
    shape = BatchShape(
        tokens=batch.num_tokens,
        targets=batch.num_targets,
        squares=sum(length**2 for length in batch.segment_lengths),
        segments=len(batch.segment_lengths),
    )
    ranks = None if full else dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=base.config, number_bytes=2, ranks=ranks)
    memory = memory_of(job, way, shape, CARD)
    # Weights, optimizer and program are there before; slack is for a real allocator.
    planned = memory.activations + memory.working
    assert 0.6 * planned <= needed <= planned
