"""A whole run whose disk fails, dies or loses power at any moment ends as if nothing had been."""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from danlu.runs.checkpoints import find_newest, list_checkpoints
from danlu.train.events import Saved
from danlu.train.loop import saving
from tests.helpers.faulty_disk import Fault, HastyDisk, every_fault, installed
from tests.helpers.figures import figure
from tests.helpers.program import timeless
from tests.helpers.training.crash_states import RecordingDisk, crash_states, write_tree
from tests.helpers.training.run_scenarios import restart
from tests.helpers.training.small_run import SmallRun


class Undisturbed:
    """A run that nobody disturbed, to compare others with."""

    def __init__(self, folder: Path) -> None:
        self.small = SmallRun.on_model_in(folder / "model")
        with installed(HastyDisk()):
            self.weights = self.small.train(folder / "run").weights()
        self.metrics = timeless(folder / "run")

    def assert_goes_on(self, run: Path) -> None:
        """What is left of a run is whole, and goes on to the same bits and records."""
        restart(run)
        assert torch.equal(self.small.train(run).weights(), self.weights)
        assert timeless(run) == self.metrics
        assert [checkpoint.step for checkpoint in list_checkpoints(run)][-1] == 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    numbers = itertools.count()
    return lambda: tmp_path / f"{next(numbers)}" / "run"


FAULTS: dict[str, tuple[Fault, bool]] = {
    "dies": ("dies", False),
    "I/O error": (errno.EIO, False),
    "disk full": (errno.ENOSPC, True),
    "full for a moment": (errno.ENOSPC, False),
}


# A death, and a disk that fails behind the training; the rest before merging.
USUAL = {(0.0, "dies"), (1.0, "I/O error")}


@pytest.mark.parametrize(
    ("share", "kind"),
    [
        pytest.param(
            share,
            kind,
            marks=[pytest.mark.soak] * ((share, kind) not in USUAL),
            id=f"{place}-{kind}",
        )
        for share, place in ((0.0, "in the foreground"), (1.0, "behind the training"))
        for kind in FAULTS
    ],
)
def test_a_run_with_a_fault_at_any_operation_ends_with_the_same_bits(
    undisturbed: Undisturbed,
    fresh: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    share: float,
) -> None:
    """In the foreground operations come in one order, and each of them fails once. Behind the
    training, steps and their records come in between, wherever the threads happen to be."""
    monkeypatch.setattr(saving, "HELD_SHARE", share)
    fault, lasting = FAULTS[kind]
    every_fault(
        fresh, undisturbed.small.train, undisturbed.assert_goes_on, fault=fault, lasting=lasting
    )


def test_a_power_cut_keeps_every_checkpoint_that_was_announced(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    disk, run = tmp_path / "disk", tmp_path / "disk" / "run"
    disk.mkdir()
    recording = RecordingDisk()
    with installed(recording):
        for event in undisturbed.small.events(run):
            if isinstance(event, Saved):
                recording.promise(event.step)
    resumed: set[object] = set()
    count = 0
    for tree, promised in crash_states(recording.log, disk, {}):
        shutil.rmtree(disk)
        write_tree(disk, tree)
        search = find_newest(run)
        assert not search.damaged
        step = search.newest.step if search.newest else None
        if isinstance(promised, int):
            assert step is not None
            assert step >= promised
        # To train on from each state would take minutes; what differs for it are the metrics.
        metrics = run / "metrics.jsonl"
        state = (step, metrics.read_bytes() if metrics.exists() else b"")
        if state not in resumed:
            resumed.add(state)
            undisturbed.assert_goes_on(run)
        count += 1
    figure("states after a power cut", count)
