"""The plan of a run: its rows and recipe as the figures that `plan` takes.

Used before every run and by `danlu plan`, which needs neither the device nor the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import shares
from danlu.device.datasheets import DeviceFacts
from danlu.plan.calibrate import ProbeFigure, calibrated
from danlu.plan.choose import Constraints, NothingFits, Plan, choose
from danlu.plan.job import Job, StepPlan
from danlu.plan.refusal import refusal
from danlu.plan.workload import ExampleShape, Workload
from danlu.train.recipe import Recipe, rows_of_step

# Steps that are looked at; a longer run is judged by its first ones.
MOST_STEPS = 2000


def workload_of(
    recipe: Recipe,
    train_rows: Sequence[Sequence[Example]],
    eval_rows: Sequence[Sequence[Example]],
    *,
    longest: int,
    report_s: float,
    num_devices: int = 1,
    token_ratio: float = 1.0,
) -> Workload:
    """Describe the steps of a run; of several devices, those of the one that has most to do.

    longest: tokens of the longest example of all rows.

    report_s: as in `Workload`.

    token_ratio: tokens of the model's tokenizer for one that was counted; not 1 where lengths are
    estimated.
    """

    @cache
    def shapes(row: int) -> list[ExampleShape]:
        return [_example_shape(example, token_ratio) for example in train_rows[row]]

    steps = []
    for step in range(min(recipe.total_steps, MOST_STEPS)):
        rows = rows_of_step(
            step, len(train_rows), rows_per_step=recipe.rows_per_step, seed=recipe.seed
        )
        steps.append(_largest_share([s for row in rows for s in shapes(row)], num_devices))
    # Every eval_steps, and at the end.
    evaluations = math.ceil(recipe.total_steps / (recipe.eval_steps or recipe.total_steps))
    return Workload(
        steps=steps,
        evaluation=_largest_share(
            [_example_shape(example, token_ratio) for row in eval_rows for example in row],
            num_devices,
        ),
        total_steps=recipe.total_steps,
        num_evaluations=evaluations + recipe.eval_on_start,
        longest_possible=round(longest * token_ratio) if recipe.total_steps > MOST_STEPS else 0,
        is_estimated=token_ratio != 1.0,
        num_devices=num_devices,
        report_s=report_s,
    )


def _largest_share(examples: list[ExampleShape], num_devices: int) -> list[ExampleShape]:
    """Return the share of the device that has most tokens to compute."""
    if num_devices == 1:
        return examples
    parts = shares([example.tokens for example in examples], num_devices)
    most = max(parts, key=lambda part: sum(examples[index].tokens for index in part))
    return [examples[index] for index in most]


def _example_shape(example: Example, ratio: float) -> ExampleShape:
    tokens, targets = len(example.tokens), example.num_targets
    return ExampleShape(tokens=round(tokens * ratio), targets=round(targets * ratio))


def recalibrated(plan: Plan, figures: Sequence[ProbeFigure], *, step_plan: StepPlan) -> Plan:
    """Correct a plan by what was measured; choose again where it turns out not to fit.

    step_plan: how it was measured. Where memory ran out before, that is not as planned and stays.
    Raises CapacityError where nothing fits any more.
    """
    measured = calibrated(plan.with_step_plan(step_plan), figures)
    ran_out = step_plan != plan.chosen.step_plan
    if ran_out or measured.fits(measured.chosen):
        return measured
    facts, budget = measured.device, plan.budget_bytes
    again = plan_run(
        plan.job, plan.workload, facts, budget_bytes=budget, constraints=plan.constraints
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
        raise refusal(found)
    return found
