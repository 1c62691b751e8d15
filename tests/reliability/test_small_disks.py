"""Real disks that are too small, have no room for names, or may not be written to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.files.committed import verify
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import read_manifest
from danlu.train.events import NotSaved
from tests.helpers.figures import figure
from tests.helpers.program import leftovers, start, timeless
from tests.helpers.training.small_run import SMALL, SmallRun
from tests.helpers.training.whole_run import RESUME, STEPS, Place

# danlu without its check before the start, as on a disk that somebody else fills meanwhile.
TRUSTFUL = """
import sys
from danlu.cli.main import main
from danlu.train.job import setup

setup.check_space = lambda *_values, **_named: None
sys.exit(main(sys.argv[1:]))
"""


class SmallDisk:
    """A file system in memory, mounted at `path`."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self._mount("size=1m", "-t", "tmpfs", "tmpfs", str(path))

    def change(self, options: str) -> None:
        """Mount it again with other options, such as another size."""
        self._mount(f"remount,{options}", str(self.path))

    def _mount(self, options: str, *words: str) -> None:
        subprocess.run(["mount", "-o", options, *words], check=True, capture_output=True)

    def release(self) -> None:
        """Let it go."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    try:
        disk = SmallDisk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"this machine does not let its root mount a disk: {problem}")
    yield disk
    disk.release()


def size_kib(folder: Path) -> int:
    """The room that a folder takes, in whole pages as tmpfs counts."""
    return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.iterdir())


def train(place: Place, disk: SmallDisk, *words: str) -> subprocess.Popen[str]:
    """Start a run on the disk that keeps all its checkpoints; its output lies there too."""
    options = {"save_total_limit": STEPS, "output_dir": disk.path / "run"}
    with (disk.path / "log").open("w") as log:
        process: subprocess.Popen[str] = start(
            [*place.words("unused", **options), *words],
            program=TRUSTFUL, stdout=log, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    return process


def assert_whole(run: Path) -> None:
    """What is there is whole, and nothing unfinished lies about."""
    assert leftovers(run) == []
    saved = list_checkpoints(run)
    assert saved
    for checkpoint in saved:
        verify(checkpoint.path)


def test_a_disk_that_stays_full_ends_the_run_after_two_saves(place: Place, disk: SmallDisk) -> None:
    disk.change(f"size={size_kib(place.whole / f'checkpoint-{STEPS}') * 5 // 2 + 64}k")
    run = disk.path / "run"
    with train(place, disk) as process:
        lines = process.communicate()[1].splitlines()
    assert process.returncode == 4, lines
    assert len(lines) == 3
    assert str(run) in lines[0]
    assert "needed" in lines[1]
    assert "free" in lines[1]
    assert_whole(run)
    disk.change("size=100m")
    with train(place, disk, *RESUME) as process:
        assert process.wait() == 0
    assert_as_if_undisturbed(place, run)


def test_a_disk_that_is_full_for_a_while_is_waited_for(tmp_path: Path, disk: SmallDisk) -> None:
    recipe = replace(SMALL, total_steps=12, eval_steps=0, save_total_limit=None)
    small = SmallRun.on_model_in(tmp_path / "model", recipe)
    whole, run = tmp_path / "whole", disk.path / "run"
    result = small.train(whole).weights()
    disk.change(f"size={size_kib(whole / 'checkpoint-12') * 5 // 2 + 16}k")
    refused = []
    for event in small.events(run):
        if isinstance(event, NotSaved):
            assert str(run) in event.what
            assert "free" in event.why
            assert_whole(run)
            refused.append(event.step)
            disk.change("size=100m")
    assert refused == [6]
    assert [each.step for each in list_checkpoints(run)] == [2, 4, 8, 10, 12]
    assert timeless(run) == timeless(whole)
    assert torch.equal(small.train(run).weights(), result)
    figure("real disks too small", 1)


def assert_as_if_undisturbed(place: Place, run: Path) -> None:
    """The result is that of a run with room enough."""
    assert_whole(run)
    assert read_manifest(run).state == "finished"
    name = "final/adapter_model.safetensors"
    assert (run / name).read_bytes() == (place.whole / name).read_bytes()
    figure("real disks too small", 1)


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        pytest.param("nr_inodes=4", 4, "free", marks=pytest.mark.soak),
        ("ro", 3, "the disk can only be read"),
    ],
)
def test_a_disk_that_takes_nothing_is_explained_at_once(
    place: Place, disk: SmallDisk, options: str, code: int, why: str
) -> None:
    (disk.path / "log").touch()
    disk.change(f"size=100m,{options}")
    words = place.words("unused", output_dir=disk.path / "run")
    with start(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        lines = process.communicate()[1].splitlines()
    assert process.returncode == code, lines
    assert len(lines) == 3
    assert str(disk.path / "run") in lines[0]
    assert why in lines[1]
    figure("real disks too small", 1)
