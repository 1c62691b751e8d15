"""The ladder: how to compute a step that ran out of memory, rung by rung.

Each rung needs less and may be slower; what is learned stays the same. First the micro-batch is
halved, down to the step's longest example. Then more is computed again instead of kept, one policy
at a time; the last ones cost one more forward pass. The loss chunk is halved along the way: its
logits are the other large part of the memory, and on the CPU chunks down to 64 rows are as fast as
larger ones (measured, see device/datasheets.py).

Knows sizes; must not know tensors, nor who computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from danlu.data.tokens.pack import Batch
from danlu.model.recompute import POLICIES, Recompute
from danlu.plan.job import StepPlan

# With smaller chunks the step would do little but read the output matrix.
LEAST_CHUNK_ROWS = 64


def next_rung(
    step_plan: StepPlan, batches: Sequence[Batch], *, policies: Sequence[Recompute]
) -> StepPlan | None:
    """Return how to compute `batches`, packed as `step_plan` says, with less; None at the end.

    policies: those that help, weakest first; none in an evaluation, which keeps nothing anyway.
    """
    largest = max(batch.num_tokens for batch in batches)
    longest = longest_example(batches)
    # A chunk larger than all there is to learn would be halved in vain.
    rows = min(step_plan.chunk_rows, max(batch.num_targets for batch in batches))
    least = min(step_plan.chunk_rows, LEAST_CHUNK_ROWS)
    less = replace(step_plan, chunk_rows=max(rows // 2, least))
    if largest > longest:
        return replace(less, micro_batch_tokens=max(largest // 2, longest))
    already = POLICIES.index(step_plan.recompute)
    stronger = [policy for policy in policies if POLICIES.index(policy) > already]
    if stronger:
        return replace(less, recompute=stronger[0])
    # Where a layer needs more than the logits this is in vain, but it is one try.
    return replace(step_plan, chunk_rows=least) if least < rows else None


def longest_example(batches: Sequence[Batch]) -> int:
    """Count the tokens of the longest example, which cannot be divided."""
    return max(max(batch.segment_lengths) for batch in batches)
