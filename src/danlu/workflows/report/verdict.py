"""What a user must hear of a run besides its figures: nothing learned, forgotten, format lost.

Each sentence says what to change. Knows measurements; must not know pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from danlu.language import _
from danlu.runs.curve import LossCurves
from danlu.workflows.report.before_after import BeforeAfter

# A loss that keeps more than this share of itself has hardly moved.
_HARDLY = 0.95
# So much more of the answers must have lost their format before it is said.
_FORMAT_LOST = 0.2


def loss_of_training(records: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Return the mean loss of the first and of the last tenth of the steps; None below 2 steps."""
    losses = [loss for _step, loss in LossCurves.of(records).train]
    if len(losses) < 2:
        return None
    count = max(1, len(losses) // 10)
    return sum(losses[:count]) / count, sum(losses[-count:]) / count


def little_learned(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say that the training loss has hardly moved, if so, and what to change."""
    ends = loss_of_training(records)
    if ends is None or ends[1] < _HARDLY * ends[0]:
        return []
    return [
        _(
            "ATTENTION: the loss hardly moved while training ({first:.4f} to {last:.4f}), so "
            "little was learned. Raise --num_train_epochs or --learning_rate, or shorten the "
            "warm-up."
        ).format(first=ends[0], last=ends[1])
    ]


def verdict(found: BeforeAfter) -> list[str]:
    """Say what went wrong, as far as the measurements show it."""
    return [*little_learned(found.records), *_worse_outside(found), *_format_lost(found)]


def _worse_outside(found: BeforeAfter) -> Iterator[str]:
    if found.losses is None or found.judged is None or not found.judged.held_out:
        return
    before, after = (side.loss for side in found.losses)
    if found.began_with and after >= before:
        yield _(
            "ATTENTION: the loss of held-out rows rose ({before:.4f} with {name}, {after:.4f} "
            "now): some of what {name} knew was forgotten. Train on more of its rows beside the "
            "new ones, or lower --num_train_epochs or --learning_rate."
        ).format(before=before, after=after, name=found.began_with)
    elif after >= before and not little_learned(found.records):
        yield _(
            "ATTENTION: the loss of held-out rows did not fall ({before:.4f} to {after:.4f}) while "
            "that of training rows did: the rows were learned by heart. Lower --num_train_epochs, "
            "or add rows."
        ).format(before=before, after=after)


def _format_lost(found: BeforeAfter) -> Iterator[str]:
    before, after = found.forms()
    if not (before.answers and after.answers):
        return
    lost = before.thought_kept / before.answers - after.thought_kept / after.answers
    if lost < _FORMAT_LOST:
        return
    yield _(
        "ATTENTION: {before} of {before_all} answers of {former} kept the thinking format, of the "
        "tuned model {after} of {after_all}. Add rows with reasoning, train with "
        "--enable_thinking false, or lower --num_train_epochs or --learning_rate."
    ).format(
        former=found.former,
        before=before.thought_kept,
        before_all=before.answers,
        after=after.thought_kept,
        after_all=after.answers,
    )
