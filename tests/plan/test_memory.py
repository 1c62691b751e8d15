"""The plan's memory against the tensors that the forward pass really keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from danlu.device.datasheets import CATALOGUE, DeviceFacts, cpu_facts
from danlu.device.variants import AttentionFacts, attention_facts
from danlu.lora.adapter import LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.qwen3 import Linear, plain_linear
from danlu.model.recompute import POLICIES, Recompute
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.memory import host_bytes, kept_per_token, memory_of
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import TINY, tiny_model
from tests.helpers.training.saved_bytes import counting_saved

CPU = cpu_facts(description="cpu", memory_bytes=2**34, threads=2, has_fast_bf16=True)
CARD = CATALOGUE["rtx-4090-24g"]
DEEP = replace(TINY, num_hidden_layers=12)
ALL = LoraConfig(r=4)
SOME = LoraConfig(r=4, target_modules=("q_proj", "v_proj", "up_proj"))


def shape_of(lengths: list[int]) -> BatchShape:
    return BatchShape(
        tokens=sum(lengths),
        targets=sum(lengths) // 2,
        squares=sum(n * n for n in lengths),
        segments=len(lengths),
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lora", [ALL, SOME, None], ids=["lora", "some", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("lengths", [[60, 30, 70], [160]], ids=["packed", "alone"])
def test_what_is_kept_is_what_was_predicted(
    policy: Recompute, lora: LoraConfig | None, dtype: torch.dtype, lengths: list[int]
) -> None:
    config, model = tiny_model(num_hidden_layers=4)
    model.to(dtype)
    linear: Linear = plain_linear
    known = list(model.parameters())
    if lora is None:
        model.requires_grad_(True)
    else:
        adapter = random_adapter(lora, config)
        known += [parameter for _name, parameter in adapter.parameters()]
        keeps = policy not in ("selective", "gate_up")
        linear = AdapterLinear(adapter, keeps_normed=keeps)
    with counting_saved(ignore=known) as saved:
        model(
            random_tokens(config, sum(lengths)),
            packed_attention(config, lengths),
            linear,
            policy,
        )
    ranks = None if lora is None else dict.fromkeys(lora.target_modules, lora.r)
    job = Job(config=config, number_bytes=dtype.itemsize, ranks=ranks)
    shape = shape_of(lengths)
    predicted = 4 * kept_per_token(job, policy, CPU, shape) * shape.tokens
    # The rotation's table and the token ids are kept once; the plan has them among its small parts.
    once = shape.tokens * (config.head_dim * 4 + 8)
    assert predicted <= saved.num_bytes <= predicted + once


def job(**changes: object) -> Job:
    return replace(
        Job(config=DEEP, number_bytes=2, ranks=dict.fromkeys(ALL.target_modules, 4)),
        **changes,  # type: ignore[arg-type]
    )


def total(
    some: Job, policy: Recompute, shape: BatchShape, device: DeviceFacts, chunk_rows: int = 256
) -> int:
    way = StepPlan(micro_batch_tokens=shape.tokens, chunk_rows=chunk_rows, recompute=policy)
    return memory_of(some, way, shape, device).total


def test_the_parts_add_up_and_each_policy_needs_less() -> None:
    shape = shape_of([400, 300, 100])
    needs = [total(job(), policy, shape, CARD) for policy in POLICIES]
    assert needs == sorted(needs, reverse=True)
    assert host_bytes(job(), shape) == DEEP.num_hidden_layers * DEEP.hidden_size * 2 * 800
    # The CPU is its own host: there is nowhere else to put what enters the blocks.
    assert total(job(), "offload", shape, CPU) == total(job(), "block", shape, CPU)


def test_what_makes_a_run_need_more() -> None:
    base = total(job(), "none", shape_of([400]), CARD)
    assert total(job(number_bytes=4), "none", shape_of([400]), CARD) > base
    assert total(job(ranks=None), "none", shape_of([400]), CARD) > base
    assert total(job(), "none", shape_of([401]), CARD) > base
    large = replace(TINY, vocab_size=50_000)
    with_head = [
        total(job(config=large), "block", shape_of([800]), CARD, rows) for rows in (64, 256)
    ]
    assert with_head[1] > with_head[0]


def test_kernels_come_with_microsteps_until_their_number_is_bounded() -> None:
    way = StepPlan(micro_batch_tokens=400, chunk_rows=256, recompute="none")

    def peak(microsteps: float) -> int:
        return memory_of(job(), way, shape_of([400]), CPU, microsteps=microsteps).total

    assert peak(10) == peak(0) + 10 * CPU.kernel_bytes
    assert peak(1000) == peak(10_000) == peak(0) + CPU.most_kernel_bytes


def test_what_an_ascends_attention_keeps_is_counted() -> None:
    """For every layer: 64 bytes of a head and token; as `sdpa` a mask of 4 MiB for each segment."""
    ascend = replace(CATALOGUE["ascend-910b-64g"], attention=attention_facts("npu", "sdpa"))
    plain = replace(ascend, attention=AttentionFacts())
    shape = shape_of([200] * 16)
    more = [
        total(job(), policy, shape, ascend) - total(job(), policy, shape, plain)
        for policy in ("none", "selective", "gate_up", "block")
    ]
    kept = DEEP.num_hidden_layers * (60 * DEEP.num_attention_heads * shape.tokens + 16 * 2**22)
    assert more[0] == pytest.approx(kept * (1 + ascend.slack), rel=0.01)
    assert more[1] == more[2] == pytest.approx(kept / DEEP.num_hidden_layers, rel=0.01)
    assert more[3] == pytest.approx(kept / DEEP.num_hidden_layers, rel=0.01)
