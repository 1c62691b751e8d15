"""The plan's time against what a step really does: operations started, numbers moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from danlu.device.datasheets import CATALOGUE, cpu_facts
from danlu.device.processor import multiplies_twice
from danlu.device.variants import AttentionFacts, attention_facts
from danlu.lora.adapter import LoraConfig
from danlu.model.recompute import POLICIES, Recompute
from danlu.model.sizes import published_config
from danlu.ops.attention import ATTENTION
from danlu.ops.product import RESIDUAL
from danlu.ops.rope import ROTATED_QKV
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.speed import nominal_speed, seconds_of
from tests.helpers.models.counting import counted, moved_by_token, planned
from tests.helpers.models.variants import taken, torch_variants

LORA = LoraConfig(r=4)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_operations_and_bytes_are_those_of_a_layer(
    policy: Recompute, lora: LoraConfig | None
) -> None:
    batch = [8] * 4
    # As cards without kernels of their own compute.
    with (
        torch_variants(),
        taken(ATTENTION, "sdpa"),
        taken(RESIDUAL, "in_product"),
        taken(ROTATED_QKV, "as_one"),
    ):
        counted(2, batch, policy, lora)  # what is made once does not count
        config, few, _bytes = counted(2, batch, policy, lora)
        _config, many, _bytes = counted(4, batch, policy, lora)
        by_token = moved_by_token(policy, lora)
    card = replace(CATALOGUE["h100-80g"], fused="", attention=AttentionFacts())
    launches, numbers = planned(config, policy, lora, card)
    calls_by_segment = 2 if policy == "none" else 3
    started = (many.total() - few.total()) / 2 - 4 * calls_by_segment
    assert launches == pytest.approx(started, rel=1e-6)
    assert numbers == pytest.approx(by_token, rel=0.05)


def test_a_layer_computed_again_costs_what_was_measured_on_a_cpu() -> None:
    """512 tokens of Qwen3-0.6B on two cores: 3.3 s, and what the policies cost beside `none`."""
    config = published_config("Qwen3-0.6B")
    assert config is not None
    job = Job(config=config, number_bytes=2, ranks=dict.fromkeys(LORA.target_modules, 8))
    cpu = cpu_facts(description="cpu", memory_bytes=2**34, threads=2, has_fast_bf16=True)
    # That was before there were kernels in C++.
    cpu = replace(cpu, fused="", attention=attention_facts("cpu", "float32"))
    shape = BatchShape(tokens=512, targets=0, squares=4 * 128 * 128, segments=4)

    def seconds(policy: Recompute) -> float:
        plan = StepPlan(micro_batch_tokens=512, chunk_rows=128, recompute=policy)
        return seconds_of(job, plan, shape, cpu, nominal_speed(cpu, 2))

    measured = {"selective": 1.08, "gate_up": 1.24, "block": 1.37}
    for policy in ("selective", "gate_up", "block"):
        assert seconds(policy) / seconds("none") == pytest.approx(measured[policy], rel=0.05)
    assert seconds("none") == pytest.approx(3.3, rel=0.15)


def test_before_its_probes_a_step_takes_what_was_measured_on_a_newer_cpu() -> None:
    """The bench's last step on two cores of a Zen 5: 2,237 tokens, 1,798 learned, in 8.93 s."""
    flags = {"avx512f", "avx512_bf16", "avx512_vp2intersect"}
    assert not multiplies_twice(flags - {"avx512_vp2intersect"})
    cpu = cpu_facts(
        description="cpu", memory_bytes=2**34, threads=2, has_fast_bf16=True,
        has_two_units=multiplies_twice(flags),
    )  # fmt: skip
    config = published_config("Qwen3-0.6B")
    assert config is not None
    job = Job(config=config, number_bytes=2, ranks=dict.fromkeys(LORA.target_modules, 8))
    shape = BatchShape(tokens=447, targets=360, squares=3 * 149**2, segments=3)
    plan = StepPlan(micro_batch_tokens=448, chunk_rows=128, recompute="none")
    found = 5 * seconds_of(job, plan, shape, cpu, nominal_speed(cpu, 2))
    assert found == pytest.approx(8.93, rel=0.1)


def test_weights_in_few_bits_cost_what_was_measured_on_two_cores() -> None:
    """Floats of a layer of Qwen3-0.6B, 15.7 million numbers, took 2.2 ms; twice for a microstep."""
    config = published_config("Qwen3-0.6B")
    assert config is not None
    job = Job(config=config, number_bytes=2, ranks=dict.fromkeys(LORA.target_modules, 8))
    cpu = cpu_facts(description="cpu", memory_bytes=2**34, threads=2, has_fast_bf16=True)
    shape = BatchShape(tokens=512, targets=0, squares=4 * 128 * 128, segments=4)
    plan = StepPlan(micro_batch_tokens=512, chunk_rows=128, recompute="none")
    plain, few_bits = (
        seconds_of(replace(job, base_form=form), plan, shape, cpu, nominal_speed(cpu, 2))
        for form in (None, "int8")
    )
    assert few_bits - plain == pytest.approx(28 * 2 * 0.0022, rel=0.1)
