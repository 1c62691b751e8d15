"""What was in the output folder of a run that starts anew: where it is now, and how far it was."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from danlu.errors import DanluError
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import RunManifest, is_run, read_manifest
from danlu.runs.registry import status_of
from danlu.train.events import Replaced
from danlu.train.recipe import recipe_of
from danlu.train.settings import TrainSettings


def what_was_replaced(moved_to: Path) -> Replaced:
    """Describe a folder that was moved to the trash; one that is no readable run has only a place.

    Raises nothing: the new run does not depend on the old one.
    """
    if is_run(moved_to):
        with suppress(DanluError):
            status, run = status_of(moved_to), read_manifest(moved_to)
            return Replaced(
                moved_to=moved_to,
                run=run,
                state=status.state,
                step=status.step,
                total_steps=_total_steps(run),
                num_checkpoints=len(list_checkpoints(moved_to)),
            )
    return Replaced(moved_to=moved_to)


def _total_steps(run: RunManifest) -> int | None:
    rows = run.data.num_train_rows
    if rows is None:
        return None
    with suppress(DanluError, ValueError):
        settings = TrainSettings.model_validate(run.settings)
        held_out = run.data.num_eval_rows or 0
        return recipe_of(settings, num_train_rows=rows, num_eval_rows=held_out).total_steps
    return None
