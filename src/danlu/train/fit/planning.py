"""The plan of a run from its settings: what the rooms above `plan` know, handed over as figures.

Used before every run and by `danlu plan`, which needs neither the device nor the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from danlu.data.tokens.examples import Example
from danlu.data.tokens.order import epoch_order
from danlu.device.datasheets import DeviceFacts
from danlu.lora.adapter import LoraConfig
from danlu.model.config import ModelConfig
from danlu.plan.calibrate import ProbeFigure, calibrated
from danlu.plan.choose import Constraints, NothingFits, Plan, choose
from danlu.plan.job import Job, StepPlan
from danlu.plan.refusal import refusal
from danlu.plan.workload import ExampleShape, Workload
from danlu.train.recipe import Recipe, steps_per_epoch
from danlu.train.settings import TrainSettings

# Steps that are looked at; a longer run is judged by its first ones.
MOST_STEPS = 2000


def job_of(config: ModelConfig, lora: LoraConfig | None, dtype: torch.dtype) -> Job:
    """Describe what is trained: an adapter, or everything where lora is None."""
    ranks = None if lora is None else dict.fromkeys(lora.target_modules, lora.r)
    return Job(config=config, number_bytes=dtype.itemsize, ranks=ranks)


def workload_of(
    recipe: Recipe,
    train_rows: Sequence[Sequence[Example]],
    eval_rows: Sequence[Sequence[Example]],
    *,
    longest: int,
    token_ratio: float | None = None,
) -> Workload:
    """Describe the steps of a run. longest: tokens of the longest row that may come.

    token_ratio: tokens of the model's tokenizer for one of ours, where lengths are estimated.
    """
    ratio = token_ratio or 1.0
    per_epoch = steps_per_epoch(len(train_rows), recipe.rows_per_step)
    known: dict[int, list[ExampleShape]] = {}
    steps = []
    for step in range(min(recipe.total_steps, MOST_STEPS)):
        epoch, index = divmod(step, per_epoch)
        order = epoch_order(len(train_rows), recipe.seed, epoch)
        rows = order[index * recipe.rows_per_step : (index + 1) * recipe.rows_per_step]
        for row in rows:
            if row not in known:
                known[row] = [_segment(example, ratio) for example in train_rows[row]]
        steps.append([segment for row in rows for segment in known[row]])
    evaluations = recipe.total_steps // recipe.eval_steps if recipe.eval_steps else 0
    is_last_due = recipe.eval_steps and recipe.total_steps % recipe.eval_steps == 0
    return Workload(
        steps=steps,
        evaluation=[_segment(example, ratio) for row in eval_rows for example in row],
        total_steps=recipe.total_steps,
        num_evaluations=evaluations + (0 if is_last_due else 1) + recipe.eval_on_start,
        longest_possible=longest if recipe.total_steps > MOST_STEPS else 0,
        is_estimated=token_ratio is not None,
    )


def _segment(example: Example, ratio: float) -> ExampleShape:
    # A segment's first token has none before it that could predict it.
    tokens, targets = len(example.tokens), int(example.supervised[1:].sum())
    return ExampleShape(tokens=round(tokens * ratio), targets=round(targets * ratio))


def constraints_of(settings: TrainSettings) -> Constraints:
    """Return what the user has fixed."""
    return Constraints(
        micro_batch_tokens=settings.micro_batch_tokens,
        recompute=None if settings.recompute == "auto" else settings.recompute,
    )


def recalibrated(
    plan: Plan, figures: Sequence[ProbeFigure], *, step_plan: StepPlan, constraints: Constraints
) -> Plan:
    """Correct a plan by what was measured; choose again where it turns out not to fit.

    step_plan: how it was measured. Where memory ran out before, that is not as planned and stays.
    Raises CapacityError where nothing fits any more.
    """
    measured = calibrated(plan.with_step_plan(step_plan), figures)
    ran_out = step_plan != plan.chosen.step_plan
    if ran_out or measured.fits(measured.chosen):
        return measured
    facts = measured.device
    again = plan_run(
        plan.job, plan.workload, facts, budget_bytes=plan.budget_bytes, constraints=constraints
    )
    return again.with_speed(measured.speed, process_bytes=facts.context_bytes)


def plan_run(
    job: Job, workload: Workload, facts: DeviceFacts, *, budget_bytes: int, constraints: Constraints
) -> Plan:
    """Choose how to compute a run's steps.

    Raises CapacityError, naming the smallest change that fits, where nothing does.
    """
    found = choose(job, workload, facts, budget_bytes=budget_bytes, constraints=constraints)
    if isinstance(found, NothingFits):
        raise refusal(found, constraints)
    return found
