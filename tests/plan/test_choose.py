"""What is chosen for a job, and what is said where nothing fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.device.datasheets import CATALOGUE, DeviceFacts, cpu_facts
from danlu.lora.adapter import ALL_TARGETS
from danlu.model.config import ModelConfig
from danlu.model.sizes import num_parameters, published_config, published_names
from danlu.plan.calibrate import ProbeFigure, calibrated
from danlu.plan.choose import EQUALLY_FAST, USABLE, Constraints, NothingFits, Plan, choose
from danlu.plan.job import BatchShape, Job
from danlu.plan.memory import memory_of
from danlu.plan.refusal import refusal
from danlu.plan.speed import Speed, seconds_of, training_flops, useful_flops
from danlu.plan.workload import ExampleShape, Workload, pack_shapes

GB = 10**9
CPU = cpu_facts(description="cpu", memory_bytes=24 * GB, threads=2, has_fast_bf16=True)


def config_of(name: str) -> ModelConfig:
    config = published_config(name)
    assert config is not None
    return config


def lora_job(name: str = "Qwen3-8B", number_bytes: int = 2) -> Job:
    ranks = dict.fromkeys(ALL_TARGETS, 8)
    return Job(config=config_of(name), number_bytes=number_bytes, ranks=ranks)


def workload(*lengths: int, steps: int = 4) -> Workload:
    segments = [ExampleShape(tokens=n, targets=n * 3 // 4) for n in lengths]
    return Workload(
        steps=[segments] * steps, evaluation=segments[:2], total_steps=100, num_evaluations=2
    )


USUAL = workload(*[138] * 14, 300, 548)


def found(
    device: str, job: Job | None = None, work: Workload = USUAL, **constraints: object
) -> Plan | NothingFits:
    facts = CATALOGUE.get(device, CPU)
    return choose(
        job or lora_job(), work, facts, budget_bytes=facts.memory_bytes,
        constraints=Constraints(**constraints),  # type: ignore[arg-type]
    )  # fmt: skip


def planned(
    device: str, job: Job | None = None, work: Workload = USUAL, **constraints: object
) -> Plan:
    plan = found(device, job, work, **constraints)
    assert isinstance(plan, Plan)
    return plan


def test_the_published_sizes() -> None:
    sizes = {name: num_parameters(config_of(name)) / 1e9 for name in published_names()}
    # The names say how many thousand millions, tied embeddings counted once.
    named = {name: float(name[6:].partition("B")[0]) for name in sizes}
    assert all(abs(size / named[name] - 1) < 0.26 for name, size in sizes.items()), sizes
    assert published_config("Qwen/Qwen3-8B-Base") == published_config("Qwen3-8B")
    assert published_config("Qwen3-8") is None


@pytest.mark.parametrize("device", ["h200-141g", "h100-80g", "ascend-910b-64g"])
def test_room_enough_means_one_micro_batch_and_nothing_computed_twice(device: str) -> None:
    chosen = planned(device).chosen
    assert chosen.microsteps == 1
    assert chosen.step_plan.recompute == "none"


def test_a_small_card_takes_the_fastest_way_that_fits() -> None:
    plan = planned("rtx-4090-24g")
    assert plan.chosen.memory.total <= USABLE * plan.budget_bytes
    fitting = [candidate.step_s for candidate in plan.candidates if plan.fits(candidate)]
    assert plan.chosen.step_s <= EQUALLY_FAST * min(fitting)


def test_the_cpu_takes_small_micro_batches_because_they_cost_no_time() -> None:
    plan = planned("cpu", lora_job("Qwen3-0.6B"))
    assert plan.chosen.memory.total < 3.6 * GB
    whole = planned("cpu", lora_job("Qwen3-0.6B"), micro_batch_tokens=4096).chosen
    assert whole.memory.total > plan.chosen.memory.total + GB


def test_a_cpu_with_room_packs_the_base_for_both_directions() -> None:
    small = lora_job("Qwen3-0.6B")
    roomy = planned("cpu", small).chosen
    assert roomy.step_plan.packs_base
    with_little = choose(small, USUAL, CPU, budget_bytes=3 * GB)
    assert isinstance(with_little, Plan)
    plain = with_little.chosen
    assert not plain.step_plan.packs_base
    assert plain.step_s > roomy.step_s
    # Each matrix of the layers and the output matrix is there once more.
    assert roomy.memory.weights - plain.memory.weights == 2 * num_parameters(small.config) - (
        2 * small.config.hidden_size * (1 + 2 * 28) + 2 * 2 * small.config.head_dim * 28
    )


@pytest.mark.parametrize(
    ("job", "device"),
    [
        (lora_job("Qwen3-0.6B", number_bytes=4), CPU),
        (replace(lora_job("Qwen3-0.6B"), ranks=None), CPU),
        (replace(lora_job("Qwen3-0.6B"), base_form="int8"), CPU),
        (replace(lora_job("Qwen3-0.6B"), num_shares=2), CPU),
        (lora_job("Qwen3-30B-A3B"), CPU),
        (lora_job("Qwen3-0.6B"), replace(CPU, packs=False)),
        (lora_job("Qwen3-0.6B"), CATALOGUE["h100-80g"]),
    ],
    ids=["fp32", "full", "few bits", "divided", "experts", "no form", "card"],
)
def test_nothing_else_is_packed(job: Job, device: DeviceFacts) -> None:
    plan = choose(job, USUAL, device, budget_bytes=500 * GB)
    assert isinstance(plan, Plan)
    assert not any(candidate.step_plan.packs_base for candidate in plan.candidates)


def test_what_the_user_fixed_stays_fixed() -> None:
    chosen = planned("a100-80g", micro_batch_tokens=700, recompute="gate_up").chosen
    assert (chosen.step_plan.micro_batch_tokens, chosen.step_plan.recompute) == (700, "gate_up")


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=20),
    st.sampled_from(["Qwen3-0.6B", "Qwen3-4B"]),
    st.sampled_from([*CATALOGUE, "cpu"]),
)
def test_what_is_chosen_fits_and_packs(lengths: list[int], model: str, device: str) -> None:
    work = workload(*lengths, steps=2)
    plan = found(device, lora_job(model), work)
    if isinstance(plan, NothingFits):
        assert plan.leanest.step_plan.micro_batch_tokens >= max(lengths)
        assert not plan.fits(plan.leanest)
        return
    for candidate in plan.candidates:
        assert candidate.step_plan.micro_batch_tokens >= max(lengths)
        assert plan.fits(candidate) or candidate != plan.chosen
    assert plan.fits(plan.chosen)
    shapes = pack_shapes(work.steps[0], plan.chosen.step_plan.micro_batch_tokens)
    assert sum(shape.tokens for shape in shapes) == sum(lengths)
    assert max(shape.tokens for shape in shapes) <= plan.heaviest.tokens
    assert max(shape.segments for shape in shapes) <= plan.heaviest.segments


@pytest.mark.parametrize(
    "device, job, work, constraints, advice",
    [
        ("rtx-4090-24g", lora_job("Qwen3-14B"), USUAL, {}, "--quantization_bit 8"),
        ("rtx-4080-16g", lora_job("Qwen3-14B"), USUAL, {}, "--quantization_bit 4"),
        ("rtx-4090-24g", lora_job("Qwen3-32B"), USUAL, {},
         "--quantization_bit 4 --quantization_type nf4"),
        ("rtx-4090-24g", replace(lora_job("Qwen3-32B"), base_form="int4"), USUAL, {}, "nf4"),
        ("rtx-4090-24g", replace(lora_job("Qwen3-14B"), base_form="fp8"), USUAL, {},
         "--quantization_bit 8 --fp8 false"),
        ("rtx-4080-16g", lora_job("Qwen3-32B"), USUAL, {}, "Qwen3-4B"),
        ("rtx-4090-24g", lora_job("Qwen3-8B", 4), USUAL, {}, "--dtype bfloat16"),
        ("a100-80g", replace(lora_job("Qwen3-8B"), ranks=None), USUAL, {}, "--finetuning_type"),
        ("rtx-4090-24g", lora_job(), workload(30_000), {}, "--cutoff_len"),
        ("rtx-4090-24g", lora_job(), USUAL,
         {"micro_batch_tokens": 4096, "recompute": "none"}, "--recompute"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_smallest_change_that_fits(
    device: str, job: Job, work: Workload, constraints: dict[str, object], advice: str
) -> None:
    plan = found(device, job, work, **constraints)
    assert isinstance(plan, NothingFits)
    fault = refusal(plan)
    assert fault.exit_code == 4
    assert advice in fault.fix
    assert CATALOGUE[device].description in str(fault)


def test_a_probe_corrects_time_and_memory() -> None:
    plan = planned("cpu", lora_job("Qwen3-0.6B"))
    way, speed = plan.chosen.step_plan, plan.speed
    truth = replace(speed, factor=2.5, microstep_s=0.1)
    microsteps = plan.chosen.microsteps * plan.workload.total_steps
    shapes = [BatchShape(tokens=n, targets=n // 2, squares=n * 100, segments=2) for n in (100, 400)]
    figures = [
        ProbeFigure(
            shape=shape,
            seconds=seconds_of(plan.job, way, shape, plan.device, truth),
            peak_bytes=memory_of(plan.job, way, shape, plan.device, microsteps=microsteps).total
            + GB,
        )
        for shape in shapes
    ]
    got = calibrated(plan, figures)
    assert got.speed.is_measured
    assert got.speed.factor == pytest.approx(2.5, rel=1e-6)
    assert got.speed.microstep_s == pytest.approx(0.1, rel=1e-6)
    assert got.chosen.step_plan == way
    assert got.chosen.memory.total == plan.chosen.memory.total + GB


def test_noise_does_not_turn_the_line_on_its_head() -> None:
    plan = planned("cpu", lora_job("Qwen3-0.6B"))
    shapes = [BatchShape(tokens=n, targets=n // 2, squares=n * 100, segments=2) for n in (100, 400)]
    slow_then_fast = [
        ProbeFigure(shape=shape, seconds=seconds, peak_bytes=GB)
        for shape, seconds in zip(shapes, (9.0, 3.0), strict=True)
    ]
    got = calibrated(plan, slow_then_fast)
    assert got.total_s > 0
    assert seconds_of(
        plan.job, plan.chosen.step_plan, shapes[1], plan.device, got.speed
    ) == pytest.approx(3.0)


def test_operations_of_a_known_shape() -> None:
    """Qwen3-8B, 1,024 tokens of one segment, all learned: the step_plan by hand."""
    shape = BatchShape(tokens=1024, targets=1024, squares=1024**2, segments=1)
    per_token = useful_flops(lora_job(), shape) / 1024 / 1e9
    body, head, adapter = 4 * 6.946, 4 * 0.6223, 6 * 0.02182
    attention = 3.5 * 36 * 2 * 4096 * 1024 / 1e9
    assert per_token == pytest.approx(body + head + adapter + attention, rel=1e-3)
    policies = ("none", "selective", "gate_up", "block")
    costs = [training_flops(lora_job(), policy, shape) for policy in policies]
    assert costs == sorted(costs)
    assert Speed(flops=1e12).is_measured is False
