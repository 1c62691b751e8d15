"""What to say when training ends for lack of memory: what did not fit, and what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu.device.memory import is_out_of_memory
from danlu.errors import CapacityError
from danlu.language import _
from danlu.reasons import as_sentence, reason_of
from danlu.train.fit.ladder import OutOfMemory
from danlu.train.settings import TrainSettings


@contextmanager
def not_to_be_repeated() -> Iterator[None]:
    """Turn running out of memory inside into a CapacityError, which ends the run.

    For an update under way: some weights may be new already, so it must not be computed again.
    """
    try:
        yield
    except Exception as fault:
        if not is_out_of_memory(fault):
            raise
        raise CapacityError(
            _("The memory ran out while the weights were being updated."),
            why=_("Some of them may be new already, so the step cannot be computed again."),
            fix=_(
                "Free memory and go on from the newest checkpoint: the same command with "
                "--resume_from_checkpoint true"
            ),
        ) from fault


def end_of_ladder(
    problem: OutOfMemory, settings: TrainSettings, run: Path, *, saved: int
) -> CapacityError:
    """Say that the leanest way to compute did not fit. saved: the checkpoint's step, 0 for none.

    The cutoff is a guess: it has not been tried whether examples of that length fit.
    """
    way = problem.step_plan
    if problem.moment == "evaluation":
        what = _("The memory does not suffice for the evaluation at step {step}.")
    else:
        what = _("The memory does not suffice for step {step}.")
    if problem.is_shared:
        return CapacityError(
            what.format(step=problem.step),
            why=_(
                "Each device holds a share of the base, which the others need: none can compute "
                "a step in other parts than they do."
            ),
            fix=_(
                "Use more devices, or begin anew with --micro_batch_tokens {tokens} "
                "--overwrite_output_dir"
            ).format(tokens=max(1, min(way.micro_batch_tokens, problem.longest) // 2)),
        )
    if not saved:
        fix = _("Free memory or try shorter examples: --cutoff_len {cutoff} --overwrite_output_dir")
    elif settings.finetuning_type == "full":
        fix = _(
            "Free memory and go on with --resume_from_checkpoint true; or begin a new run with "
            "what it learned and shorter examples: --model {path}/checkpoint-{step} "
            "--cutoff_len {cutoff} --output_dir NEW"
        )
    else:
        fix = _(
            "Free memory and go on with --resume_from_checkpoint true; or begin a new run with "
            "what it learned and shorter examples: --adapter {path} --cutoff_len {cutoff} "
            "--output_dir NEW"
        )
    return CapacityError(
        # A probe before the first step stands for it.
        what.format(step=problem.step if problem.moment == "evaluation" else max(1, problem.step)),
        why=_(
            "It was computed in parts no longer than the longest example, {tokens} tokens, {rows} "
            "rows of logits at a time, with recompute {policy}: nothing leaner is left."
        ).format(
            tokens=problem.longest,
            rows=way.chunk_rows,
            policy=way.recompute,
        ),
        fix=fix.format(path=shlex.quote(str(run)), step=saved, cutoff=shorter(problem.longest)),
    )


def shorter(longest: int) -> int:
    """Return a cutoff well below the longest example: three quarters, a multiple of 64 if large."""
    cutoff = longest * 3 // 4
    return max(1, cutoff - cutoff % 64 if cutoff > 128 else cutoff)


def memory_is_full(fault: Exception) -> CapacityError:
    """Say that memory ran out where nothing leaner can be tried, such as while saving."""
    return CapacityError(
        _("The memory ran out."),
        why=as_sentence(reason_of(fault)),
        fix=_("Free memory and go on: the same command with --resume_from_checkpoint true"),
    )
