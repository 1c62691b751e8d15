"""The ladder: how to compute a step that ran out of memory, rung by rung.

Each rung needs less and may be slower; what is learned stays the same. First the micro-batch is
halved, down to the step's longest example. Then more is computed again instead of kept, one policy
at a time; the last ones cost one more forward pass. The loss chunk is halved along the way: its
logits are the other large part of the memory, and on the CPU chunks down to 64 rows are as fast as
larger ones (measured, see device/datasheets.py).

Knows sizes; must not know what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import Batch, pack
from danlu.device.group import Group
from danlu.model.recompute import POLICIES, Recompute, helpful_policies
from danlu.plan.job import StepPlan
from danlu.train.events import Adapted, Moment

# With smaller chunks the step would do little but read the output matrix.
LEAST_CHUNK_ROWS = 64


class OutOfMemory(Exception):
    """The ladder has ended. longest: tokens of the longest example, which cannot be divided.

    is_shared: there was no ladder, as other devices hold parts of the base.
    """

    def __init__(
        self,
        *,
        moment: Moment,
        step: int,
        longest: int,
        step_plan: StepPlan,
        is_shared: bool = False,
    ) -> None:
        super().__init__(f"out of memory at step {step} ({moment})")
        self.is_shared = is_shared
        self.moment = moment
        self.step = step
        self.longest = longest
        self.step_plan = step_plan


def adapted(
    step_plan: StepPlan,
    examples: Sequence[Example],
    *,
    moment: Moment,
    step: int,
    has_host: bool,
) -> Adapted:
    """Return the next rung below `step_plan` for examples that did not fit.

    has_host: whether the device can offload to the host's memory. Raises OutOfMemory at the end.
    """
    batches = pack(examples, step_plan.micro_batch_tokens)
    # An evaluation keeps nothing for a backward pass.
    policies = () if moment == "evaluation" else helpful_policies(has_host=has_host)
    rung = next_rung(step_plan, batches, policies=policies)
    if rung is None:
        longest = _longest_example(batches)
        raise OutOfMemory(moment=moment, step=step, longest=longest, step_plan=step_plan)
    return Adapted(step=step, moment=moment, step_plan=rung)


def next_rung(
    step_plan: StepPlan, batches: Sequence[Batch], *, policies: Sequence[Recompute]
) -> StepPlan | None:
    """Return how to compute `batches`, packed as `step_plan` says, with less; None at the end.

    policies: those that help, weakest first; none in an evaluation, which keeps nothing anyway.
    """
    largest = max(batch.num_tokens for batch in batches)
    longest = _longest_example(batches)
    # Halving a chunk larger than the supervised tokens would save nothing.
    rows = min(step_plan.chunk_rows, max(batch.num_targets for batch in batches))
    least = min(step_plan.chunk_rows, LEAST_CHUNK_ROWS)
    less = replace(step_plan, chunk_rows=max(rows // 2, least))
    if largest > longest:
        return replace(less, micro_batch_tokens=max(largest // 2, longest))
    already = POLICIES.index(step_plan.recompute)
    stronger = [policy for policy in policies if POLICIES.index(policy) > already]
    if stronger:
        return replace(less, recompute=stronger[0])
    # Where a layer needs more than the logits this saves nothing, but it costs one attempt only.
    return replace(step_plan, chunk_rows=least) if least < rows else None


def leanest(step_plan: StepPlan, group: Group) -> StepPlan:
    """Return what needs least of how the processes of a group compute: what all can compute."""
    numbers = torch.tensor(
        [
            step_plan.micro_batch_tokens,
            step_plan.chunk_rows,
            -POLICIES.index(step_plan.recompute),
        ]
    )
    group.least(numbers)
    tokens, rows, policy = numbers.tolist()
    return replace(
        step_plan, micro_batch_tokens=tokens, chunk_rows=rows, recompute=POLICIES[-policy]
    )


def _longest_example(batches: Sequence[Batch]) -> int:
    """Count the tokens of the longest example, which cannot be divided."""
    return max(max(batch.segment_lengths) for batch in batches)
