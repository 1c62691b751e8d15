"""A run of the program that nobody disturbed, and processes to disturb in the same run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu.cli.main import main
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import leftovers, start, timeless, train_words, write_rows
from tests.helpers.waiting import wait_until

STEPS = 60
RESUME = ("--resume_from_checkpoint", "true")
# danlu that goes slowly from a step on, well behind the one at which a test disturbs it: where
# other programs keep all cores busy, the tiny run would be over before the test has seen the step.
_SLOWLY = """
import sys, time
from danlu.cli.main import main
from danlu.train.job.finetune import Finetune

run = Finetune.run

def slowly(self, *given, **named):
    for event in run(self, *given, **named):
        yield event
        if getattr(event, "step", 0) >= {step}:
            time.sleep(0.2)

Finetune.run = slowly
{before}
sys.exit(main(sys.argv[1:]))
"""
_MARGIN = 5


def slow_behind(step: int, before: str = "") -> str:
    """Write a program for `start`: danlu, slow some steps behind `step`. before: done first."""
    return _SLOWLY.format(step=step + _MARGIN, before=before)


class Place:
    """A model, rows, and the run that nobody disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_model_folder(folder / "model")
        self.rows = write_rows(folder / "rows.jsonl")
        self.whole = folder / "whole"
        assert main(self.words("whole")) == 0

    def words(self, name: str, **changes: object) -> list[str]:
        settings = {"max_steps": STEPS, "save_steps": 10, "save_total_limit": 2}
        settings |= {"val_size": 4, "eval_steps": 15, "logging_steps": 25}
        return train_words(self.model, self.rows, self.folder / name, **(settings | changes))

    def assert_as_if_undisturbed(self, name: str) -> None:
        """Same adapter, same metrics, same checkpoints, nothing left over."""
        run = self.folder / name
        for file in ("final/adapter_model.safetensors", "adapter_model.safetensors"):
            assert (run / file).read_bytes() == (self.whole / file).read_bytes()
        assert timeless(run) == timeless(self.whole)
        assert list_checkpoints(run)[-1].step == STEPS
        assert read_manifest(run).state == "finished"
        assert leftovers(run) == []
        assert names(run) == names(self.whole)


def names(run: Path) -> set[str]:
    """What lies in a run's folder beside its checkpoints, which depend on where it was stopped."""
    return {path.name for path in run.iterdir() if not path.name.startswith("checkpoint-")}


@contextmanager
def running(words: list[str], log: Path, step: int) -> Iterator[subprocess.Popen[bytes]]:
    """danlu as a process of its own, disturbed at a step; `log` gets what it prints."""
    program = slow_behind(step)
    with (
        log.open("wb") as file,
        start(words, program=program, stdout=file, stderr=file) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    """Return as soon as the metrics show that a step is done."""

    def is_done() -> bool:
        metrics = read_metrics(run)
        is_there = bool(metrics) and metrics[-1]["step"] >= step
        assert is_there or process.poll() is None, "it ended too early"
        return is_there

    wait_until(is_done)
