"""Checkpoints written by a thread while training goes on, one at a time.

What a checkpoint holds is copied into memory, which takes milliseconds; a thread writes the copy,
waits for the disk, shows the folder under its name and removes those it replaces, which may take
seconds. What stands on the disk afterwards does not depend on how fast that goes: the next
checkpoint begins only when the one before has ended.

Must not know on which steps checkpoints are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from danlu.container import memory_bytes
from danlu.device.group import Group, take_all
from danlu.errors import CapacityError
from danlu.files.draft import Draft, HeldDraft
from danlu.runs.checkpoints import commit_checkpoint, prune, remove_checkpoint
from danlu.runs.metrics import Metrics
from danlu.train.events import NotSaved, Saved
from danlu.train.loop.method import Method
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.training_state import Progress, write_state

# The share of the machine's memory that a copy may take. Every adapter stays far below it. A copy
# of full training's 14 or 16 bytes a parameter may not fit beside the training itself on the CPU,
# so there such a checkpoint is written while the training stands still.
HELD_SHARE = 1 / 16
# After this many checkpoints in a row that could not be written the run stops.
MAX_FAILED_SAVES = 2


class Saves(Protocol):
    """What the loop asks of who saves; see `Saver`."""

    def resume(self, progress: Progress) -> None: ...

    def save(
        self, progress: Progress, *, on_schedule: bool, must: bool
    ) -> Iterator[Saved | NotSaved]: ...

    def outcome(self) -> Iterator[Saved | NotSaved]: ...

    def settle(self) -> None: ...


class SavesNothing:
    """For a process that another one leads: that one saves for all.

    gives: whether this process has a share of what is saved.
    """

    def __init__(self, group: Group, *, method: Method, optimizer: Optimizer, gives: bool) -> None:
        self._group = group
        self._method = method
        self._optimizer = optimizer
        self._gives = gives

    def resume(self, progress: Progress) -> None:
        """Do nothing, as all the others do."""

    def save(
        self, progress: Progress, *, on_schedule: bool, must: bool
    ) -> Iterator[Saved | NotSaved]:
        """Give this process's share, where the lead has not saved this step before."""
        if self._gives and self._group.told():
            take_all(_pieces(self._method, self._optimizer))
        yield from ()

    def outcome(self) -> Iterator[Saved | NotSaved]:
        yield from ()

    def settle(self) -> None: ...


class Saver:
    """Writes the checkpoints of one run, and says how it went.

    tells: whether the group's processes have shares of what is saved, so that they must know when.
    """

    def __init__(
        self,
        folder: Path,
        *,
        method: Method,
        optimizer: Optimizer,
        metrics: Metrics,
        save_total_limit: int | None,
        group: Group,
        tells: bool,
    ) -> None:
        self._folder = folder
        self._group = group
        self._tells = tells
        self._method = method
        self._optimizer = optimizer
        self._metrics = metrics
        self._save_total_limit = save_total_limit
        self._pending: tuple[Progress, Future[CapacityError | None]] | None = None
        self._saved_step: int | None = None
        self._provisional: tuple[int, ...] = ()
        self._failed_saves = 0

    def resume(self, progress: Progress) -> None:
        """Count on the checkpoint that has this progress."""
        self._saved_step, self._provisional = progress.step, progress.provisional

    def save(
        self, progress: Progress, *, on_schedule: bool, must: bool
    ) -> Iterator[Saved | NotSaved]:
        """Begin a checkpoint of the last completed step, unless this process has saved it.

        Yields how the one before went, which is waited for. on_schedule: false for one that the
        next one replaces. must: wait for this one too; else a thread writes it where a copy fits
        into memory. Raises as `outcome`, and DataError where the weights are not finite.
        """
        yield from self.outcome(wait=True)
        is_new = self._saved_step != progress.step
        if self._tells:
            self._group.told(is_new)
        if not is_new:
            return
        if not on_schedule:
            self._provisional = (*self._provisional, progress.step)
        self._start(replace(progress, provisional=self._provisional), behind=not must)
        yield from self.outcome(wait=must, must=must)

    def outcome(self, *, wait: bool = False, must: bool = False) -> Iterator[Saved | NotSaved]:
        """Yield how the last save went, once and if it has ended; a full disk does not end the run.

        Raises CapacityError for a save that must succeed and for the second failure in a row, and
        what else the thread raised.
        """
        if self._pending is None or not (wait or self._pending[1].done()):
            return
        progress, future = self._pending
        fault = future.result()
        self._pending = None
        step = progress.step
        if fault is None:
            self._saved_step, self._failed_saves = step, 0
            self._provisional = tuple(s for s in self._provisional if s in _needed(progress))
            yield Saved(step=step, folder=self._folder / f"checkpoint-{step}")
            return
        self._failed_saves += 1
        if must or self._failed_saves >= MAX_FAILED_SAVES:
            raise fault
        yield NotSaved(step=step, what=fault.what, why=fault.why)

    def settle(self) -> None:
        """Return once nothing is being written, however the last save went."""
        if self._pending is not None:
            wait_for([self._pending[1]])

    def _start(self, progress: Progress, *, behind: bool) -> None:
        self._metrics.flush()
        pieces = _pieces(self._method, self._optimizer)
        if behind and self._copy_bytes() <= HELD_SHARE * memory_bytes():
            held = HeldDraft()
            self._fill(held, progress, pieces)
            thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
            future = thread.submit(self._write, progress, held.copy_into)
            thread.shutdown(wait=False)  # it ends with this checkpoint
        else:
            future = Future()
            fill = partial(self._fill, progress=progress, pieces=pieces)
            future.set_result(self._write(progress, fill))
            take_all(pieces)  # that a full disk has left: the others give them all
        self._pending = progress, future

    def _copy_bytes(self) -> int:
        weights = sum(p.numel() * p.itemsize for p in self._method.parameters())
        return weights + sum(self._optimizer.sizes().values()) * torch.float32.itemsize

    def _fill(self, draft: Draft, progress: Progress, pieces: Iterator[Tensor]) -> None:
        self._method.save(draft, pieces)
        write_state(draft, progress, self._optimizer, pieces)

    def _write(self, progress: Progress, fill: Callable[[Draft], None]) -> CapacityError | None:
        """Write, commit and remove; return the fault of a full disk.

        In the thread this must touch no tensor and no event.
        """
        # The records of a checkpoint's steps come first: a resumed run does not write them again.
        self._metrics.sync()
        try:
            with commit_checkpoint(self._folder, progress.step) as draft:
                fill(draft)
        except CapacityError as full:
            return full
        self._remove_old(progress)
        return None

    def _remove_old(self, progress: Progress) -> None:
        """Remove those that a new checkpoint replaces, and those over save_total_limit.

        Replaced are the ones saved off schedule; the best one always stays.
        """
        for step in progress.provisional:
            if step not in _needed(progress):
                remove_checkpoint(self._folder, step)
        if self._save_total_limit is not None:
            best = progress.best_step
            protected = [] if best is None else [best]
            prune(self._folder, keep=self._save_total_limit, protect=protected)


def _pieces(method: Method, optimizer: Optimizer) -> Iterator[Tensor]:
    """Yield all that a checkpoint is written from, in its order: `Group.pieces` says how."""
    return chain(method.pieces(), optimizer.pieces())


def _needed(progress: Progress) -> tuple[int | None, int]:
    """Return the steps that stay on disk: the best one and the last one."""
    return progress.best_step, progress.step
