"""Probes: tiny microsteps before the first step that measure speed and memory.

They use the run's own rows, and nothing is learned from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain

from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import pack
from danlu.device.memory import peak_bytes
from danlu.plan.calibrate import ProbeFigure
from danlu.plan.choose import Plan
from danlu.plan.job import BatchShape, StepPlan
from danlu.plan.speed import seconds_of
from danlu.train.loop.batches import stage
from danlu.train.loop.method import Method
from danlu.train.loop.step import microstep

# The larger probe takes at most about this many seconds, as predicted from the device's facts.
LONGEST_S = 2.0
# How often each is measured.
TIMES = 3


def probe(
    method: Method,
    probed: Sequence[list[Example]],
    step_plan: StepPlan,
    *,
    clear: Callable[[], None],
    between: Callable[[], None],
) -> list[ProbeFigure]:
    """Run a microstep of each list of examples several times; return a figure of each.

    clear: clears the gradients. They are kept until the end, as in a step, whose microsteps add to
    one another's. between: called before each microstep; may raise.
    """

    def typical(examples: list[Example]) -> ProbeFigure:
        figures = []
        for _ in range(1 + TIMES):
            between()
            figures.append(_measure(method, examples, step_plan))
        # The first time, libraries make their kernels for its sizes. The median of the others is
        # not moved by the one that something else on the machine held up.
        return sorted(figures[1:], key=lambda figure: figure.seconds)[TIMES // 2]

    try:
        return [typical(examples) for examples in probed]
    finally:
        clear()


def probe_tokens(plan: Plan) -> int:
    """Return how many tokens the larger probe has: those that fill the micro-batch, or fewer."""
    step_plan = plan.chosen.step_plan
    heaviest = plan.heaviest
    seconds = seconds_of(plan.job, step_plan, heaviest, plan.device, plan.speed)
    share = min(1.0, LONGEST_S / seconds)
    # A single example may be heavier; what is measured is a microstep like most of them.
    return max(1, int(min(heaviest.tokens, step_plan.micro_batch_tokens) * share))


def probe_examples(
    rows: Sequence[Sequence[Example]], most: int
) -> tuple[list[Example], list[Example]]:
    """Choose examples for a microstep of about a third of so many tokens, and for one of all."""
    return _take(rows, most // 3), _take(rows, most)


def _take(rows: Sequence[Sequence[Example]], most_tokens: int) -> list[Example]:
    """Take examples in order while they fit; at least one."""
    taken: list[Example] = []
    tokens = 0
    for example in chain.from_iterable(rows):
        if taken and tokens + len(example.tokens) > most_tokens:
            break
        taken.append(example)
        tokens += len(example.tokens)
    return taken


def _measure(method: Method, examples: list[Example], step_plan: StepPlan) -> ProbeFigure:
    device = method.base.device.torch_device
    (batch,) = pack(examples, sum(len(example.tokens) for example in examples))
    started = time.perf_counter()
    staged = stage(batch, device, multiple=method.base.token_multiple)
    divisor = max(1, batch.num_targets)
    loss = microstep(method, staged, step_plan=step_plan, step=0, divisor=divisor)
    float(loss)  # waits for the device
    seconds = time.perf_counter() - started
    shape = BatchShape(
        tokens=batch.num_tokens,
        targets=batch.num_targets,
        squares=sum(length**2 for length in batch.segment_lengths),
        segments=len(batch.segment_lengths),
    )
    return ProbeFigure(shape=shape, seconds=seconds, peak_bytes=peak_bytes(device))
