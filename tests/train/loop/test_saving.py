"""Training goes on while a checkpoint is written; what is on disk in the end stays the same."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import CapacityError, EnvironmentFault
from danlu.files.disk import Bytes, Disk
from danlu.files.draft import HeldDraft
from danlu.runs.checkpoints import commit_checkpoint, list_checkpoints
from danlu.runs.metrics import read_metrics
from danlu.train.events import Event, NotSaved, Saved, StepDone
from danlu.train.loop import saving
from danlu.train.loop.trainer import Interrupted, Trainer
from tests.helpers.faulty_disk import HastyDisk, installed
from tests.helpers.training.crash_states import read_tree
from tests.helpers.training.trainers import RECIPE, trainer
from tests.helpers.waiting import PATIENCE_S

ONLY_SAVES = replace(RECIPE, eval_steps=0)


@pytest.fixture
def in_the_foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no copy fit into memory."""
    monkeypatch.setattr(saving, "HELD_SHARE", 0.0)


class SlowDisk(HastyDisk):
    """Writes nothing of one checkpoint until it is let go."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.go = threading.Event()
        self.waits = False
        self.log: list[str] = []

    def create(self, path: Path) -> FileIO:
        self.log.append(str(path))
        if f".{self.name}.draft" in str(path):
            self.waits = True
            assert self.go.wait(PATIENCE_S)
        return super().create(path)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.log.append(str(target))


class BrokenDisk(HastyDisk):
    """Fails every write into some checkpoints with an errno."""

    def __init__(self, code: int, *names: str) -> None:
        self.code = code
        self.names = names

    def write(self, file: FileIO, data: Bytes) -> None:
        if any(f".{name}.draft" in str(file.name) for name in self.names):
            raise OSError(self.code, "broken on purpose")
        super().write(file, data)


def brief(events: Iterator[Event]) -> Iterator[str]:
    """Name the events: `step 3`, `saved 3`, `not saved 3`."""
    names = {StepDone: "step", Saved: "saved", NotSaved: "not saved"}
    for event in events:
        if type(event) in names:
            yield f"{names[type(event)]} {event.step}"  # type: ignore[union-attr]


def stopped_after(run: Trainer, step: int) -> list[str]:
    """Ask for a stop after a step, and say what happened until the end."""
    seen: list[str] = []
    events = brief(run.run())
    while f"step {step}" not in seen:
        seen.append(next(events))
    run.request_stop()
    with pytest.raises(Interrupted):
        seen.extend(events)
    return seen


def test_steps_go_on_until_the_next_checkpoint_is_due(tmp_path: Path) -> None:
    slow = SlowDisk("checkpoint-3")
    with installed(slow):
        seen = []
        for what in brief(trainer(tmp_path, ONLY_SAVES).run()):
            seen.append(what)
            if what == "step 6":
                assert slow.waits
                slow.go.set()
    # Checkpoint 6 had to wait for 3.
    assert seen[:7] == [*(f"step {n}" for n in range(1, 7)), "saved 3"]
    assert sorted(seen[7:]) == sorted(
        [*(f"step {n}" for n in range(7, 13)), "saved 6", "saved 9", "saved 12"]
    )
    assert seen[-1] == "saved 12"
    shown = next(n for n, path in enumerate(slow.log) if path.endswith("/checkpoint-3"))
    begun = next(n for n, path in enumerate(slow.log) if ".checkpoint-6.draft" in path)
    assert shown < begun


@pytest.mark.usefixtures("in_the_foreground")
def test_a_checkpoint_too_large_to_hold_is_written_at_once(tmp_path: Path) -> None:
    seen = list(brief(trainer(tmp_path, replace(ONLY_SAVES, total_steps=6)).run()))
    assert seen == ["step 1", "step 2", "step 3", "saved 3", *(f"step {n}" for n in (4, 5, 6)),
                    "saved 6"]  # fmt: skip


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_the_same_is_on_disk_either_way(
    tmp_path: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also which checkpoints are left, where those for being the best come and go."""
    recipe = replace(RECIPE, eval_steps=2, save_total_limit=2)
    trees = []
    for name, share in (("behind", 1.0), ("foreground", 0.0)):
        monkeypatch.setattr(saving, "HELD_SHARE", share)
        list(trainer(tmp_path / name, recipe, full=full).run())
        kept = list_checkpoints(tmp_path / name / "run")
        trees.append({each.path.name: read_tree(each.path) for each in kept})
    for files in (files for tree in trees for files in tree.values()):
        # Where the base model lies stands in an adapter's settings.
        files.pop("adapter_config.json", None)
        files.pop("manifest.json")
    assert trees[0] == trees[1]
    assert len(trees[0]) >= 2


def test_what_comes_after_the_copy_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    """The weights of step 3, though steps 4 to 6 have been done when they are written."""
    slow = SlowDisk("checkpoint-3")
    list(trainer(tmp_path / "quick", ONLY_SAVES).run())
    with installed(slow):
        for what in brief(trainer(tmp_path / "slow", ONLY_SAVES).run()):
            if what == "step 6":
                slow.go.set()
    name = "run/checkpoint-3/optimizer.safetensors"
    assert (tmp_path / "quick" / name).read_bytes() == (tmp_path / "slow" / name).read_bytes()


def test_a_stop_waits_for_the_checkpoint_in_flight(tmp_path: Path) -> None:
    slow = SlowDisk("checkpoint-3")
    with installed(slow):
        threading.Timer(1.0, slow.go.set).start()
        seen = stopped_after(trainer(tmp_path, ONLY_SAVES), 5)
    assert seen[-2:] == ["saved 3", "saved 5"]


def test_whoever_stops_listening_leaves_nothing_half_written(tmp_path: Path) -> None:
    slow = SlowDisk("checkpoint-3")
    with installed(slow):
        for what in brief(trainer(tmp_path, ONLY_SAVES).run()):
            if what == "step 5":
                threading.Timer(0.2, slow.go.set).start()
                break
    assert [each.step for each in list_checkpoints(tmp_path / "run")] == [3]


@pytest.mark.parametrize("total", [12, 3], ids=["goes on", "is over"])
def test_a_disk_fault_behind_the_training_reaches_the_user(tmp_path: Path, total: int) -> None:
    recipe = replace(ONLY_SAVES, total_steps=total)
    with installed(BrokenDisk(errno.EIO, "checkpoint-3")), pytest.raises(EnvironmentFault):
        list(trainer(tmp_path, recipe).run())
    assert list_checkpoints(tmp_path / "run") == []


def test_the_outcome_of_a_save_decides_about_the_next(tmp_path: Path) -> None:
    """One that did not fit is told of; a second one in a row ends the run before a third begins."""
    seen: list[Any] = []
    with (
        installed(BrokenDisk(errno.ENOSPC, "checkpoint-3", "checkpoint-9", "checkpoint-12")),
        pytest.raises(CapacityError),
    ):
        seen.extend(brief(trainer(tmp_path, ONLY_SAVES).run()))
    assert [each.step for each in list_checkpoints(tmp_path / "run")] == [6]
    assert read_metrics(tmp_path / "run")[-1]["step"] <= 12


def test_a_stop_right_after_a_failed_save_tries_again(tmp_path: Path) -> None:
    """The same step: it was begun behind the training, and is saved after all."""

    class OnceFull(BrokenDisk):
        def write(self, file: FileIO, data: Bytes) -> None:
            try:
                super().write(file, data)
            except OSError:
                self.names = ()
                raise

    with installed(OnceFull(errno.ENOSPC, "checkpoint-3")):
        seen = stopped_after(trainer(tmp_path, ONLY_SAVES), 3)
    assert seen[-2:] == ["not saved 3", "saved 3"]


def test_a_held_draft_is_a_copy(tmp_path: Path) -> None:
    source = bytearray(b"before")
    held = HeldDraft()
    with held.stream("weights") as write:
        write(source)
        write(memoryview(source))
    held.write("text", "é")
    source[:] = b"after!"
    with installed(Disk()), commit_checkpoint(tmp_path, 1) as draft:
        held.copy_into(draft)
    tree = read_tree(tmp_path / "checkpoint-1")
    assert (tree["weights"], tree["text"]) == (b"beforebefore", "é".encode())
