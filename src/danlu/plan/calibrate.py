"""Correcting a plan by probes: tiny microsteps that were measured on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from danlu.plan.choose import Plan
from danlu.plan.job import BatchShape
from danlu.plan.memory import memory_of
from danlu.plan.speed import seconds_of


@dataclass(frozen=True, kw_only=True)
class ProbeFigure:
    """One measured microstep. peak_bytes: the peak memory of the process until its end."""

    shape: BatchShape
    seconds: float
    peak_bytes: int


def calibrated(plan: Plan, figures: Sequence[ProbeFigure]) -> Plan:
    """Return the same choice with its time and memory corrected.

    figures: small ones first. Time is a line through the smallest and the largest: what a microstep
    costs in any case, and how much slower the device is than its facts. Memory is off by a
    constant, what libraries take; the tensors themselves are known. It is never corrected
    downwards: a probe meets only some of the sizes that libraries make kernels for.
    """
    step_plan = plan.chosen.step_plan
    small, large = figures[0], figures[-1]
    nominal = [
        seconds_of(plan.job, step_plan, f.shape, plan.device, plan.speed) for f in (small, large)
    ]
    factor, each = large.seconds / nominal[1], 0.0
    if nominal[1] > 1.5 * nominal[0]:
        slope = (large.seconds - small.seconds) / (nominal[1] - nominal[0])
        # Noise must not turn a line on its head: it stays near the larger one's proportion.
        factor = min(max(slope, 0.5 * factor), factor)
        each = large.seconds - factor * nominal[1]
    speed = replace(plan.speed, factor=factor, microstep_s=each, is_measured=True)
    # Beside the kernels of the whole run: those that the probe has met are among them.
    microsteps = plan.chosen.microsteps * plan.workload.total_steps
    expected = memory_of(plan.job, step_plan, large.shape, plan.device, microsteps=microsteps)
    offset = max(figure.peak_bytes for figure in figures) - expected.total
    process = plan.device.context_bytes + max(0, offset)
    return plan.with_speed(speed, process_bytes=process)
