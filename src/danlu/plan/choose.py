"""Choosing how a step is computed: the fastest way that fits, and of equally fast ones the leanest.

Every combination of micro-batch size, loss chunk and recomputation is predicted; there are few.
The choice rests on the device's facts, not on measured times, so that two runs of the same command
on the same machine choose the same and end with the same bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from danlu.device.datasheets import DeviceFacts
from danlu.model.recompute import POLICIES, Recompute, helpful_policies
from danlu.plan.job import BatchShape, Job, StepPlan
from danlu.plan.memory import Memory, host_bytes, memory_of
from danlu.plan.speed import (
    Speed,
    around_seconds,
    evaluation_seconds,
    exchange_seconds,
    nominal_speed,
    seconds_of,
)
from danlu.plan.workload import Workload, pack_shapes

# The part of the memory that a plan may fill: a prediction may be off by a few per cent.
USABLE = 0.95
# Ways whose predicted times differ by less than this count as equally fast.
EQUALLY_FAST = 1.02
_PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# Sizes are rounded up to a multiple of this: a plan does not hang on a single token.
_ROUND_TO = 64


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What the user has fixed; None is left to the plan."""

    micro_batch_tokens: int | None = None
    recompute: Recompute | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to compute a step, and what it would take.

    step_s: seconds of a step. microsteps: of a step, on average.
    """

    step_plan: StepPlan
    memory: Memory
    step_s: float
    microsteps: float


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a plan rests on. budget_bytes: the memory there is."""

    device: DeviceFacts
    job: Job
    workload: Workload
    speed: Speed
    budget_bytes: int
    constraints: Constraints

    def fits(self, candidate: Candidate) -> bool:
        """Whether a candidate stays within the usable memory."""
        return candidate.memory.total <= USABLE * self.budget_bytes

    def candidate(self, step_plan: StepPlan, packed: Sequence[Sequence[BatchShape]]) -> Candidate:
        """Predict what steps take; packed: micro-batches of some steps, packed as in step_plan."""
        seconds = sum(
            seconds_of(self.job, step_plan, shape, self.device, self.speed)
            for step in packed
            for shape in step
        )
        microsteps = sum(len(step) for step in packed) / len(packed)
        memory = memory_of(
            self.job,
            step_plan,
            self.workload.heaviest(step_plan.micro_batch_tokens),
            self.device,
            microsteps=microsteps * self.workload.total_steps,
            is_shared=self.workload.num_devices > 1,
        )
        exchange_s = exchange_seconds(self.job, self.workload.num_devices, self.device)
        step_s = seconds / len(packed) + exchange_s
        return Candidate(step_plan=step_plan, memory=memory, step_s=step_s, microsteps=microsteps)


@dataclass(frozen=True, kw_only=True)
class Plan(Basis):
    """How steps are computed. candidates: the best of each policy, fitting or not."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def host_bytes(self) -> int:
        """What `offload` keeps in the host's memory."""
        if self.chosen.step_plan.recompute != "offload":
            return 0
        return host_bytes(self.job, self.heaviest)

    @property
    def heaviest(self) -> BatchShape:
        """The heaviest micro-batch."""
        return self.workload.heaviest(self.chosen.step_plan.micro_batch_tokens)

    @property
    def total_s(self) -> float:
        """Predicted seconds for all steps and evaluations."""
        shapes = pack_shapes(self.workload.evaluation, self.chosen.step_plan.micro_batch_tokens)
        once = sum(evaluation_seconds(self.job, x, self.device, self.speed) for x in shapes)
        steps = self.chosen.step_s * self.workload.total_steps
        return steps + once * self.workload.num_evaluations

    @property
    def around_s(self) -> float:
        """Bound the seconds around the steps: loading, the probes, and the report."""
        weights = self.job.num_weights * self.job.number_bytes  # as they are read
        microstep_s = self.chosen.step_s / self.chosen.microsteps
        return around_seconds(weights, microstep_s, report_s=self.workload.report_s)

    def with_speed(self, speed: Speed, *, process_bytes: int) -> Plan:
        """Return the same choice with a measured speed, and other memory outside the formulas."""
        device = replace(self.device, context_bytes=process_bytes)
        changed = replace(self, device=device, speed=speed)

        def again(candidate: Candidate) -> Candidate:
            packed = self.workload.packed_steps(candidate.step_plan.micro_batch_tokens)
            return changed.candidate(candidate.step_plan, packed)

        candidates = tuple(again(candidate) for candidate in self.candidates)
        return replace(changed, chosen=again(self.chosen), candidates=candidates)

    def with_step_plan(self, step_plan: StepPlan) -> Plan:
        """Return the plan for steps that are computed in another way than it chose."""
        changed = replace(self, chosen=replace(self.chosen, step_plan=step_plan))
        return changed.with_speed(self.speed, process_bytes=self.device.context_bytes)


@dataclass(frozen=True, kw_only=True)
class NothingFits(Basis):
    """No candidate fits into the memory. leanest: the one that needs least."""

    leanest: Candidate


def choose(
    job: Job,
    workload: Workload,
    device: DeviceFacts,
    *,
    budget_bytes: int,
    constraints: Constraints = Constraints(),
) -> Plan | NothingFits:
    """Plan how the steps of a job are computed on a device with `budget_bytes` of memory."""
    basis = Basis(
        device=device,
        job=job,
        workload=workload,
        speed=nominal_speed(device, job.number_bytes),
        budget_bytes=budget_bytes,
        constraints=constraints,
    )
    packed = {
        tokens: workload.packed_steps(tokens)
        for tokens in _micro_batch_sizes(workload, constraints.micro_batch_tokens)
    }
    every = [
        basis.candidate(step_plan, packed[step_plan.micro_batch_tokens])
        for step_plan in _step_plans(packed, job, device, constraints)
    ]
    chosen = _best(every, basis)
    if not basis.fits(chosen):
        return NothingFits(**vars(basis), leanest=chosen)
    by_policy: dict[Recompute, list[Candidate]] = {}
    for candidate in every:
        by_policy.setdefault(candidate.step_plan.recompute, []).append(candidate)
    best = {policy: _best(of_policy, basis) for policy, of_policy in by_policy.items()}
    best[chosen.step_plan.recompute] = chosen
    return Plan(**vars(basis), chosen=chosen, candidates=tuple(best.values()))


def _step_plans(
    sizes: Collection[int], job: Job, device: DeviceFacts, constraints: Constraints
) -> Iterator[StepPlan]:
    policies: Sequence[Recompute] = helpful_policies(has_host=device.has_host)
    if constraints.recompute is not None:
        policies = [constraints.recompute]
    packs = (False, True) if job.packs_on(device) else (False,)
    for recompute, tokens, rows, is_packed in product(policies, sizes, device.chunk_rows, packs):
        yield StepPlan(
            micro_batch_tokens=tokens,
            chunk_rows=rows,
            recompute=recompute,
            packs_base=is_packed,
        )


def _micro_batch_sizes(workload: Workload, wanted: int | None) -> list[int]:
    """List the sizes worth trying: the whole step and its parts, down to the longest example."""
    if wanted is not None:
        return [wanted]
    parts = {max(-(-workload.largest_step // part), workload.longest) for part in _PARTS}
    return sorted({-(-tokens // _ROUND_TO) * _ROUND_TO for tokens in parts}, reverse=True)


def _leanest(candidates: list[Candidate]) -> Candidate:
    """Return the candidate with the least memory among the fastest.

    Stronger recomputation than `selective` is for memory that is missing, not for memory to spare.
    """
    fastest = min(candidates, key=lambda candidate: candidate.step_s)
    strongest = max(_rank(fastest), POLICIES.index("selective"))
    equal = [
        candidate
        for candidate in candidates
        if candidate.step_s <= EQUALLY_FAST * fastest.step_s and _rank(candidate) <= strongest
    ]
    return min(equal, key=lambda candidate: (_memory(candidate), candidate.step_s))


def _rank(candidate: Candidate) -> int:
    return POLICIES.index(candidate.step_plan.recompute)


def _memory(candidate: Candidate) -> int:
    return candidate.memory.total


def _best(candidates: list[Candidate], basis: Basis) -> Candidate:
    """Return the best candidate that fits; where none fits, the one that needs least."""
    fitting = [candidate for candidate in candidates if basis.fits(candidate)]
    return _leanest(fitting) if fitting else min(candidates, key=_memory)
