"""TensorBoard events of a run, through tensorboardX; tags as in Hugging Face's Trainer.

Knows where AutoDL's TensorBoard looks. Must not know how a run computes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.files.atomic import make_folder
from danlu.train.events import Evaluated, Event, StepDone
from danlu.train.settings import TrainSettings

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

# The folder that the TensorBoard tile of a rented AutoDL instance shows.
AUTODL_LOGS = Path("/root/tf-logs")


def log_folder(settings: TrainSettings, run: Path) -> Path | None:
    """Return where a run's events go; None where none are wanted.

    `auto` writes them where a place for them was given or where AutoDL looks for them.
    """
    if settings.report_to == "none":
        return None
    if settings.logging_dir:
        return Path(settings.logging_dir).expanduser().absolute()
    if AUTODL_LOGS.is_dir():
        return AUTODL_LOGS / f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return run / "tensorboard" if settings.report_to != "auto" else None


class TensorBoard:
    """Writes losses, learning rate and gradient norm of the steps that are logged."""

    def __init__(self, folder: Path | None, *, logging_steps: int, first_step: int) -> None:
        self._writer: SummaryWriter | None = None
        self._logging_steps = logging_steps
        if folder is not None:
            make_folder(folder)
            from tensorboardX import SummaryWriter

            # What a killed run wrote after the checkpoint that it resumes from is written again.
            self._writer = SummaryWriter(str(folder), purge_step=first_step + 1, flush_secs=10)

    def show(self, event: Event) -> None:
        """Write the event if it has numbers."""
        if isinstance(event, StepDone) and event.step % self._logging_steps == 0:
            self._add("train/loss", event.loss, event.step)
            self._add("train/grad_norm", event.grad_norm, event.step)
            self._add("train/learning_rate", event.learning_rate, event.step)
            self._add("train/epoch", event.epoch, event.step)
        elif isinstance(event, Evaluated):
            self._add("eval/loss", event.loss, event.step)
            self._add("eval/loss_per_sample", event.loss_per_sample, event.step)

    def close(self) -> None:
        """Write what is waiting and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, tag: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(tag, value, step)
