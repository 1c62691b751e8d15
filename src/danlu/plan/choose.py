"""Choosing how a step is computed: the fastest way that fits, and of equally fast ones the leanest.

Every combination of micro-batch size, loss chunk and recomputation is predicted; there are few.
The choice rests on the device's facts, not on measured times, so that two runs of the same command
on the same machine choose the same and end with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from danlu.device.datasheets import DeviceFacts
from danlu.model.recompute import POLICIES, Recompute, helpful_policies
from danlu.plan.job import Arithmetic, Job, Load
from danlu.plan.memory import Memory, host_bytes, memory_of
from danlu.plan.speed import Speed, evaluation_seconds, nominal_speed, seconds_of
from danlu.plan.workload import Workload, pack_loads

# The part of the memory that a plan may fill: a prediction may be off by a few per cent.
USABLE = 0.95
# Ways whose predicted times differ by less than this count as equally fast.
EQUALLY_FAST = 1.03
_PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# Sizes are rounded up to a multiple of this: a plan does not hang on a single token.
_ROUND_TO = 64


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user has fixed; None is left to the plan."""

    micro_batch_tokens: int | None = None
    recompute: Recompute | None = None


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to compute a step, and what it would take."""

    arithmetic: Arithmetic
    memory: Memory
    step_s: float
    microsteps: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was chosen for a job on a device, and from what.

    budget_bytes: the memory there is. options: the best way of each policy, fitting or not; chosen:
    the best that fits, None where nothing does. host_bytes: what `offload` keeps on the host.
    """

    device: DeviceFacts
    job: Job
    workload: Workload
    speed: Speed
    budget_bytes: int
    options: tuple[Option, ...]
    chosen: Option | None

    @property
    def host_bytes(self) -> int:
        """What is kept in the host's memory."""
        if self.chosen is None or self.chosen.arithmetic.recompute != "offload":
            return 0
        tokens = self.chosen.arithmetic.micro_batch_tokens
        return host_bytes(self.job, self.workload.heaviest(tokens))

    @property
    def heaviest(self) -> Load:
        """The heaviest micro-batch of the chosen way."""
        assert self.chosen is not None
        return self.workload.heaviest(self.chosen.arithmetic.micro_batch_tokens)

    @property
    def total_s(self) -> float:
        """Predicted seconds for all steps and evaluations."""
        if self.chosen is None:
            return 0.0
        loads = pack_loads(self.workload.evaluation, self.chosen.arithmetic.micro_batch_tokens)
        once = sum(evaluation_seconds(self.job, x, self.device, self.speed) for x in loads)
        steps = self.chosen.step_s * self.workload.total_steps
        return steps + once * self.workload.num_evaluations

    def fits(self, option: Option) -> bool:
        """Whether a way stays within the usable memory."""
        return option.memory.total <= USABLE * self.budget_bytes


def choose(
    job: Job,
    workload: Workload,
    device: DeviceFacts,
    *,
    budget_bytes: int,
    wish: Wish = Wish(),
) -> Plan:
    """Plan a job. The plan has nothing chosen where nothing fits."""
    speed = nominal_speed(device, job.number_bytes)
    packed = {
        tokens: workload.packed_steps(tokens)
        for tokens in _micro_batch_sizes(workload, wish.micro_batch_tokens)
    }
    every = [
        _option(job, arithmetic, workload, device, speed, packed[arithmetic.micro_batch_tokens])
        for arithmetic in _ways(packed, device, wish)
    ]
    plan = Plan(
        device=device, job=job, workload=workload, speed=speed, budget_bytes=budget_bytes,
        options=(), chosen=None,
    )  # fmt: skip
    fitting = [option for option in every if plan.fits(option)]
    chosen = _leanest(fitting) if fitting else None
    options = tuple(
        chosen if chosen and chosen.arithmetic.recompute == policy else _best(of_policy, plan)
        for policy in dict.fromkeys(option.arithmetic.recompute for option in every)
        if (of_policy := [o for o in every if o.arithmetic.recompute == policy])
    )
    return replace(plan, options=options, chosen=chosen)


def with_speed(plan: Plan, speed: Speed, *, process_bytes: int) -> Plan:
    """Return the same choice with a measured speed, and other memory outside the formulas."""
    device = replace(plan.device, context_bytes=process_bytes)

    def again(option: Option) -> Option:
        packed = plan.workload.packed_steps(option.arithmetic.micro_batch_tokens)
        return _option(plan.job, option.arithmetic, plan.workload, device, speed, packed)

    chosen = None if plan.chosen is None else again(plan.chosen)
    options = tuple(again(option) for option in plan.options)
    return replace(plan, device=device, speed=speed, options=options, chosen=chosen)


def like(plan: Plan, arithmetic: Arithmetic) -> Plan:
    """Return the plan for steps that are computed in another way than it chose."""
    assert plan.chosen is not None
    chosen = replace(plan.chosen, arithmetic=arithmetic)
    measured = replace(plan, chosen=chosen)
    return with_speed(measured, plan.speed, process_bytes=plan.device.context_bytes)


def _ways(
    packed: dict[int, list[list[Load]]], device: DeviceFacts, wish: Wish
) -> Iterator[Arithmetic]:
    policies = helpful_policies(has_host=device.has_host)
    for recompute in policies if wish.recompute is None else [wish.recompute]:
        for tokens in packed:
            for rows in device.chunk_rows:
                yield Arithmetic(micro_batch_tokens=tokens, chunk_rows=rows, recompute=recompute)


def _micro_batch_sizes(workload: Workload, wanted: int | None) -> list[int]:
    """List the sizes worth trying: the whole step and its parts, down to the longest example."""
    if wanted is not None:
        return [wanted]
    parts = {max(-(-workload.largest_step // part), workload.longest) for part in _PARTS}
    return sorted({-(-tokens // _ROUND_TO) * _ROUND_TO for tokens in parts}, reverse=True)


def _option(
    job: Job,
    arithmetic: Arithmetic,
    workload: Workload,
    device: DeviceFacts,
    speed: Speed,
    packed: list[list[Load]],
) -> Option:
    seconds = sum(
        seconds_of(job, arithmetic, load, device, speed) for step in packed for load in step
    )
    microsteps = sum(len(step) for step in packed) / len(packed)
    return Option(
        arithmetic=arithmetic,
        memory=memory_of(
            job,
            arithmetic,
            workload.heaviest(arithmetic.micro_batch_tokens),
            device,
            microsteps=microsteps * workload.total_steps,
        ),
        step_s=seconds / len(packed),
        microsteps=microsteps,
    )


def _leanest(options: list[Option]) -> Option:
    """Return the option with the least memory among the fastest.

    Stronger recomputation than `selective` is for memory that is missing, not for memory to spare.
    """
    fastest = min(options, key=lambda option: option.step_s)
    strongest = max(_rank(fastest), POLICIES.index("selective"))
    equal = [
        option
        for option in options
        if option.step_s <= EQUALLY_FAST * fastest.step_s and _rank(option) <= strongest
    ]
    return min(equal, key=lambda option: (option.memory.total, option.step_s))


def _rank(option: Option) -> int:
    return POLICIES.index(option.arithmetic.recompute)


def _best(options: list[Option], plan: Plan) -> Option:
    """Return the best option that fits; where none fits, the one that needs least."""
    fitting = [option for option in options if plan.fits(option)]
    return _leanest(fitting) if fitting else min(options, key=lambda o: o.memory.total)
