"""What a run leaves beside its weights: logs, curves, TensorBoard events.

All of it is made from metrics.jsonl and run.json. A full disk must not end a run for the sake of a
picture, so such a failure is reported and the next occasion tries again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from danlu.errors import CapacityError
from danlu.runs.curve import draw_loss_curves
from danlu.runs.metrics import read_metrics
from danlu.runs.trainer_files import RunFacts, results_of, write_trainer_files
from danlu.train.events import Evaluated, Event, NotSaved
from danlu.train.job.tensorboard import TensorBoard, log_folder
from danlu.train.settings import TrainSettings

# The pictures are drawn anew while the run goes on, but for no more of its time than this: a short
# run may be evaluated every second, and drawing takes half of one.
_SHARE_OF_DRAWING = 0.02


class Outputs:
    """The files beside the weights of one run.

    facts: gives what they say besides the metrics. first_step: steps done when it began.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        *,
        facts: Callable[[], RunFacts],
        logging_steps: int,
        first_step: int,
    ) -> None:
        self._folder = folder
        self._facts = facts
        self._draws = settings.plot_loss
        self._drawn_at = time.monotonic()
        self._drawing_s = 1.0  # about what it takes the first time
        self._tensorboard = TensorBoard(
            log_folder(settings, folder), logging_steps=logging_steps, first_step=first_step
        )

    def after(self, event: Event) -> Iterator[Event]:
        """Write what an event changes; yield NotSaved where the disk is full."""
        self._tensorboard.show(event)
        if isinstance(event, Evaluated):
            try:
                self._write(is_finished=False)
            except CapacityError as fault:
                yield NotSaved(step=event.step, what=fault.what, why=fault.why)

    def results(self) -> dict[str, float]:
        """Return what the run came to: losses, steps, tokens and seconds."""
        return results_of(read_metrics(self._folder), self._facts())

    def finish(self) -> None:
        """Write everything for the finished run."""
        self._write(is_finished=True)
        self._tensorboard.close()

    def close(self) -> None:
        """Close what is open, for a run that ends before it is finished."""
        self._tensorboard.close()

    def _write(self, *, is_finished: bool) -> None:
        write_trainer_files(self._folder, self._facts(), is_finished=is_finished)
        if self._draws and (is_finished or self._may_draw()):
            started = time.monotonic()
            draw_loss_curves(self._folder, title=self._folder.name)
            self._drawn_at = time.monotonic()
            self._drawing_s = self._drawn_at - started

    def _may_draw(self) -> bool:
        return time.monotonic() - self._drawn_at > self._drawing_s / _SHARE_OF_DRAWING
