"""What run.json says of how a run went: each change of its step plan, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from danlu.device.detect import Device
from danlu.device.memory import is_out_of_memory, peak_bytes
from danlu.errors import CapacityError, DanluError, DataError
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import State
from danlu.train.events import Adapted
from danlu.train.fit.advice import end_of_ladder, memory_is_full
from danlu.train.fit.ladder import OutOfMemory
from danlu.train.job.record import now, with_change
from danlu.train.loop.trainer import Interrupted, Trainer
from danlu.train.settings import TrainSettings


@contextmanager
def recording_end(folder: RunFolder, trainer: Trainer, settings: TrainSettings) -> Iterator[None]:
    """Record how the training inside ends.

    Raises what it raised, and CapacityError where memory ran out.
    """
    try:
        yield
    except Interrupted:
        _set_state(folder, "interrupted", f"at step {trainer.progress.step}")
        raise
    except Exception as problem:
        told = problem
        if isinstance(problem, OutOfMemory):
            told = end_of_ladder(problem, settings, folder.path, saved=trainer.progress.step)
        elif is_out_of_memory(problem):
            told = memory_is_full(problem)
        # A run that was stopped can go on from its checkpoint.
        stopped = isinstance(problem, OutOfMemory | DataError)
        known = told if stopped else problem
        detail = known.what if isinstance(known, DanluError) else f"{type(known).__name__}: {known}"
        # On a full disk this fails too; the user must hear of the error that came first.
        with suppress(DanluError):
            _set_state(folder, "stopped" if stopped else "failed", detail)
        if told is problem:
            raise
        raise told from problem
    _set_state(folder, "finished", f"{trainer.progress.step} steps")


def _set_state(folder: RunFolder, state: State, detail: str) -> None:
    folder.write(folder.read().changed(state=state, detail=detail, ended=now()))


def record_change(folder: RunFolder, change: Adapted) -> None:
    """Record another step plan, before the step is computed again: a resumed run must find it.

    On a full disk the run goes on: a resumed one would run out of memory at the same place and
    change its step plan again.
    """
    with suppress(CapacityError):
        folder.write(with_change(folder.read(), change))


def record_costs(folder: RunFolder, device: Device, *, loaded_s: float, total_s: float) -> None:
    """Record how long the run took and how much memory it used at most."""
    run = folder.read()
    peak = float(peak_bytes(device.torch_device))
    timings = {"load_s": round(loaded_s, 3), "total_s": round(total_s, 3)}
    folder.write(run.changed(timings=timings, results={**run.results, "peak_memory_bytes": peak}))
