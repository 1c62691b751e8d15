"""Checkpoints written behind the training's back, one at a time.

What a checkpoint holds is copied into memory, which takes milliseconds; a thread writes the copy,
waits for the disk, shows the folder under its name and removes those it replaces, which may take
seconds. What stands on the disk afterwards does not depend on how fast that goes: the next
checkpoint begins only when the one before has come to its end.

Must not know when a checkpoint is due, nor what its failure means for the run.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path

from danlu.device.detect import host_memory_bytes
from danlu.errors import CapacityError
from danlu.files.draft import Draft, HeldDraft
from danlu.runs.checkpoints import commit_checkpoint, prune, remove_checkpoint
from danlu.runs.metrics import Metrics
from danlu.train.loop.checkpoint import Progress, write_state
from danlu.train.loop.method import Method
from danlu.train.loop.optimizer import Optimizer

# The share of the machine's memory that a copy may take. Every adapter stays far below it. A copy
# of full training's 14 or 16 bytes a parameter may not fit beside the training itself on the CPU,
# so there such a checkpoint is written while the training stands still.
HELD_SHARE = 1 / 16


@dataclass(frozen=True, kw_only=True)
class SaveResult:
    """How a save went. needed: the steps it still needs on disk; fault: a disk that was full."""

    step: int
    needed: frozenset[int | None]
    fault: CapacityError | None


class Saver:
    """Writes the checkpoints of one run."""

    def __init__(
        self,
        folder: Path,
        *,
        method: Method,
        optimizer: Optimizer,
        metrics: Metrics,
        save_total_limit: int | None,
    ) -> None:
        self._folder = folder
        self._method = method
        self._optimizer = optimizer
        self._metrics = metrics
        self._save_total_limit = save_total_limit
        self._pending: Future[SaveResult] | None = None

    def start(self, progress: Progress, *, behind: bool) -> None:
        """Begin the checkpoint of the last completed step; the one before must have been asked for.

        behind: let a thread write it where a copy fits into memory; else it is written here.
        Raises DataError where the weights are not finite.
        """
        assert self._pending is None, "the last checkpoint has not been asked for"
        self._metrics.flush()
        if behind and self._copy_bytes() <= HELD_SHARE * host_memory_bytes():
            held = HeldDraft()
            self._fill(held, progress)
            thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
            self._pending = thread.submit(self._write, progress, held.copy_into)
            thread.shutdown(wait=False)  # it ends with this checkpoint
        else:
            result = self._write(progress, lambda draft: self._fill(draft, progress))
            self._pending = Future()
            self._pending.set_result(result)

    def result(self, *, wait: bool) -> SaveResult | None:
        """Tell once how the last save went; None where none is left to tell, or it still goes on.

        Raises what the thread raised.
        """
        pending = self._pending
        if pending is None or not (wait or pending.done()):
            return None
        result = pending.result()
        self._pending = None
        return result

    def settle(self) -> None:
        """Return once nothing is being written, however the last save went."""
        if self._pending is not None:
            wait_for([self._pending])

    def _copy_bytes(self) -> int:
        tensors, _updates = self._optimizer.state()
        weights = [parameter for _name, parameter in self._method.named_parameters()]
        return sum(tensor.nbytes for tensor in (*tensors.values(), *weights))

    def _fill(self, draft: Draft, progress: Progress) -> None:
        self._method.save(draft)
        write_state(draft, progress, self._optimizer)

    def _write(self, progress: Progress, fill: Callable[[Draft], None]) -> SaveResult:
        """Write, commit and remove; in the thread this must touch no tensor and no event."""
        needed = frozenset((progress.best_step, progress.step))
        # The records of a checkpoint's steps come first: a resumed run does not write them again.
        self._metrics.sync()
        fault: CapacityError | None = None
        try:
            with commit_checkpoint(self._folder, progress.step) as draft:
                fill(draft)
        except CapacityError as full:
            fault = full
        else:
            self._remove_old(progress, needed)
        return SaveResult(step=progress.step, needed=needed, fault=fault)

    def _remove_old(self, progress: Progress, needed: frozenset[int | None]) -> None:
        """Remove checkpoints that nobody needs after a new one; the best always stays.

        Those are the ones saved off schedule, which a newer one replaces, and what is over
        save_total_limit.
        """
        for step in progress.provisional:
            if step not in needed:
                remove_checkpoint(self._folder, step)
        if self._save_total_limit is not None:
            best = progress.best_step
            protected = [] if best is None else [best]
            prune(self._folder, keep=self._save_total_limit, protect=protected)
