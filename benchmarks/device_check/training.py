"""How fast danlu trains on the card, what memory that takes, and where a step's time goes."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.device_check.correctness import try_operations
from benchmarks.device_check.kernels import profiled
from benchmarks.device_check.part import Report
from benchmarks.device_check.setup import emptied, peak, random_model, rows_of, seconds_of
from benchmarks.device_check.shapes import LORA_ALPHA, LORA_RANK, SHAPES, CheckShape
from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import pack
from danlu.device.detect import select
from danlu.device.facts import budget_bytes, device_facts
from danlu.device.group import ALONE
from danlu.device.variants import FLASH3, FLASH4
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import LoraConfig
from danlu.model.config import WeightForm
from danlu.ops import multiplies_fp8, ops_table
from danlu.ops.attention import ATTENTION
from danlu.ops.choice import NotHere
from danlu.plan.choose import Constraints, Plan
from danlu.plan.job import Job
from danlu.plan.workload import ExampleShape, Workload
from danlu.train.fit.planning import plan_run
from danlu.train.loop.batches import StagedStep, stage
from danlu.train.loop.method import LoraMethod
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.precision import LossScale
from danlu.train.loop.step import StepResult, Wishes, optimizer_step

# A plan is made for a run of so many steps.
_PLANNED_STEPS = 100


def run(settings: argparse.Namespace, report: Report) -> None:
    """Train on rows of the recipe and on full ones; with fp8 on such a base, too."""
    shape, device = SHAPES[settings.shape], select(settings.device)
    forms: list[WeightForm | None] = [None, "fp8"]
    for form in forms:
        if form == "fp8" and not multiplies_fp8(device.torch_device):
            report.put(form, None, "SKIPPED: this device does not multiply in fp8")
            continue
        base = random_model(shape.config, device, form)
        for name, rows in measured_rows(shape).items():
            words = f"{name}, {form}" if form else name
            with report.trying(words):
                measure(base, words, rows, shape.steps, report)
        del base


def run_attention(settings: argparse.Namespace, report: Report) -> None:
    """Attend by each FlashAttention that is here: its numbers, and the same rows as above."""
    shape, device = SHAPES[settings.shape], select(settings.device)
    if device.kind != "cuda":
        report.put("flash", None, "SKIPPED: FlashAttention is for NVIDIA cards")
        return
    base, where = random_model(shape.config, device, None), device.torch_device
    for name in (FLASH3, FLASH4):  # torch's own is what `run` has measured
        with report.trying(name):
            try:
                fault = ATTENTION._fault(name, where)
            except NotHere as reason:
                report.put(name, None, f"SKIPPED: {reason}")
                continue
            if fault is not None or not ATTENTION.take(name, where):
                report.put(name, fault, f"FAILED: {str(fault)[:160]}")
                continue
            try_operations(
                shape.config, shape.kernel_tokens, where, report, only="attention", called=name
            )
            for words, rows in measured_rows(shape).items():
                measure(base, f"{words}, {name}", rows, shape.steps, report)


def measured_rows(shape: CheckShape) -> dict[str, list[Example]]:
    """Return the rows of a step, by what they are called in the table."""
    vocab = shape.config.vocab_size
    recipe = rows_of(shape.recipe_rows, shape.recipe_tokens, vocab, varied=True)
    full = rows_of(shape.full_rows, shape.full_tokens, vocab, varied=False)
    return {"recipe": recipe, "full rows": full}


class Bench:
    """A fresh adapter on a model, its plan, and a step's rows that are trained repeatedly."""

    def __init__(self, base: LoadedModel, rows: Sequence[Example]) -> None:
        lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA)
        self.method = LoraMethod.fresh(base, lora, seed=0)
        self.optimizer = Optimizer(self.method.parameters(), weight_decay=0.0)
        self.scale = LossScale.first_for(base.dtype)
        self.plan = planned(base, lora, rows)
        self.step_plan = self.plan.chosen.step_plan
        device = base.device.torch_device
        self.rows = StagedStep(
            batches=[
                stage(batch, device, multiple=base.token_multiple)
                for batch in pack(rows, self.step_plan.micro_batch_tokens)
            ],
            num_targets=sum(row.num_targets for row in rows),
            num_tokens=sum(len(row.tokens) for row in rows),
        )

    def step(self) -> StepResult:
        """Do one optimizer step; when it returns the device has done it."""
        result = optimizer_step(
            self.method,
            self.optimizer,
            self.rows,
            step_plan=self.step_plan,
            step=0,
            learning_rate=1e-4,
            max_grad_norm=1.0,
            scale=self.scale,
            group=ALONE,
            wishes=Wishes,
            between=lambda: None,
            meanwhile=lambda: None,
        )
        self.scale = result.scale
        return result


def planned(base: LoadedModel, lora: LoraConfig, rows: Sequence[Example]) -> Plan:
    """Plan such steps as `danlu train` would."""
    ranks = dict.fromkeys(lora.target_modules, lora.r)
    job = Job(
        config=base.config,
        number_bytes=base.dtype.itemsize,
        ranks=ranks,
        base_form=base.quantization,
    )
    shapes = [
        ExampleShape(tokens=len(row.tokens), targets=int(row.supervised[1:].sum())) for row in rows
    ]
    workload = Workload(
        steps=[shapes], evaluation=[], total_steps=_PLANNED_STEPS, num_evaluations=0
    )
    facts = device_facts(base.device, ops_table(base.device.torch_device).chosen)
    budget = budget_bytes(base.device)
    return plan_run(job, workload, facts, budget_bytes=budget, constraints=Constraints())


def measure(
    base: LoadedModel, name: str, rows: Sequence[Example], steps: int, report: Report
) -> None:
    device = base.device.torch_device
    emptied(device)
    bench = Bench(base, rows)
    first = seconds_of(bench.step, device)
    results: list[StepResult] = []
    times = [seconds_of(lambda: results.append(bench.step()), device) for _step in range(steps)]
    found = figures(rows, times) | {"first_step_s": first, "losses": [r.loss for r in results]}
    chosen = bench.plan.chosen
    foreseen = {"step_s": chosen.step_s, "bytes": chosen.memory.total - chosen.memory.process}
    most = peak(device)
    found |= {"step_plan": vars(bench.step_plan), "planned": foreseen, "peak_bytes": most}
    words = (
        f"{found['tokens_per_s']:,.0f} tokens/s, step {found['step_s']:.3f} s "
        f"(plan {foreseen['step_s']:.3f}), recompute {bench.step_plan.recompute}"
    )
    report.put(name, found, words)
    if most is not None:
        off = most / foreseen["bytes"] - 1
        words = f"{most / 1e9:.2f} GB, plan {foreseen['bytes'] / 1e9:.2f} ({off:+.1%})"
        report.put(f"{name}, peak", most, words)
    with report.trying(f"{name}, profile"):
        found_kernels = profiled(bench.step, device)
        report.put(f"{name}, profile", vars(found_kernels), found_kernels.words)


def figures(rows: Sequence[Example], times: Sequence[float]) -> dict[str, Any]:
    """Return what steps over rows come to; useful tokens are those of rows, padding is none."""
    tokens, step_s = sum(len(row.tokens) for row in rows), statistics.median(times)
    return {
        "useful_tokens": tokens,
        "times": times,
        "step_s": step_s,
        "tokens_per_s": tokens / step_s,
    }
