"""Checkpoints of a real run: resumed at any step, saved again, damaged in every way, unreadable."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.errors import DanluError
from danlu.files.committed import MANIFEST, verify
from danlu.runs.checkpoints import commit_checkpoint, find_newest
from danlu.runs.folder import RunFolder
from danlu.train.loop.method import LoraMethod
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.training_state import read_state, write_state
from tests.helpers.faulty_disk import FailingReads, HastyDisk, failing_reads, installed
from tests.helpers.figures import figure
from tests.helpers.program import timeless
from tests.helpers.training.crash_states import read_tree
from tests.helpers.training.small_run import CONFIG, SMALL, SmallRun

STEPS = 20
EVERY_STEP = replace(SMALL, total_steps=STEPS, save_steps=1, save_total_limit=None, eval_steps=5)


class Whole:
    """A run with a checkpoint after every step."""

    def __init__(self, folder: Path) -> None:
        self.small = SmallRun.on_model_in(folder / "model", EVERY_STEP)
        self.run = folder / "run"
        with installed(HastyDisk()):
            self.weights = self.small.train(self.run).weights()

    def copy(self, place: Path, *steps: int) -> Path:
        """Copy the run as it was when only the checkpoints of `steps` were there."""
        names = [f"checkpoint-{step}" for step in range(1, STEPS + 1) if step not in steps]
        return shutil.copytree(self.run, place, ignore=shutil.ignore_patterns(*names, ".lock"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def test_resumed_at_any_step_the_rest_is_the_same(whole: Whole, tmp_path: Path) -> None:
    for step in range(1, STEPS + 1):
        run = whole.copy(tmp_path / f"{step}", step)
        assert torch.equal(whole.small.train(run).weights(), whole.weights), step
        assert timeless(run) == timeless(whole.run), step
        final = f"checkpoint-{STEPS}"
        assert read_tree(run / final) == read_tree(whole.run / final), step
        shutil.rmtree(run)


def test_what_is_loaded_and_saved_again_has_the_same_bytes(whole: Whole, tmp_path: Path) -> None:
    checkpoint = whole.run / "checkpoint-7"
    method = LoraMethod.fresh(whole.small.base, CONFIG, seed=0)
    optimizer = Optimizer(method.parameters(), weight_decay=0.0)
    with RunFolder.create(tmp_path / "again") as run:
        progress = read_state(checkpoint, optimizer)
        with commit_checkpoint(run.path, 7) as draft:
            method.save(draft, method.pieces())
            write_state(draft, progress, optimizer, optimizer.pieces())
        assert read_tree(run.path / "checkpoint-7") == read_tree(checkpoint)


def flipped_bits(file: Path, count: int) -> Iterator[str]:
    """Flip one bit at random places, one after another."""
    content = file.read_bytes()
    draw = random.Random(file.name)
    for _ in range(count):
        bit = draw.randrange(8 * len(content))
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        yield f"bit {bit} of {file.name}"
    file.write_bytes(content)


def cut_short(file: Path, count: int) -> Iterator[str]:
    """Cut the file to nothing, to random lengths, and by one byte."""
    content = file.read_bytes()
    draw = random.Random(file.name)
    lengths = {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(count - 2))}
    for length in lengths:
        file.write_bytes(content[:length])
        yield f"{file.name} cut to {length} bytes"
    file.write_bytes(content)


def removed(file: Path) -> Iterator[str]:
    """Remove the file, put a folder in its place, and make it longer."""
    content = file.read_bytes()
    file.unlink()
    yield f"{file.name} removed"
    file.mkdir()
    yield f"{file.name} is a folder"
    file.rmdir()
    file.write_bytes(content + b"\0")
    yield f"{file.name} with one byte more"
    file.write_bytes(content)


def swapped(file: Path, other: Path) -> Iterator[str]:
    """Swap two files."""
    contents = file.read_bytes(), other.read_bytes()
    file.write_bytes(contents[1])
    other.write_bytes(contents[0])
    yield f"{file.name} and {other.name} swapped"
    file.write_bytes(contents[0])
    other.write_bytes(contents[1])


@pytest.mark.parametrize("bits, cuts", [(60, 12), pytest.param(1000, 100, marks=pytest.mark.soak)])
def test_all_damage_is_found_named_and_passed_over(
    whole: Whole, tmp_path: Path, bits: int, cuts: int
) -> None:
    run = whole.copy(tmp_path / "run", 4, 5)
    newest = run / "checkpoint-5"
    files = sorted(newest.iterdir())
    assert {path.name for path in files} > {MANIFEST, "optimizer.safetensors", "progress.json"}
    count = 0
    for index, file in enumerate(files):
        damages = (
            flipped_bits(file, bits),
            cut_short(file, cuts),
            removed(file),
            *(swapped(file, other) for other in files[:index]),
        )
        for what in (what for damage in damages for what in damage):
            search = find_newest(run)
            assert search.newest is not None, what
            assert search.newest.step == 4, what
            (problem,) = search.damaged
            # A damaged manifest may say something else of any file.
            assert str(newest) in problem.what
            if MANIFEST not in what:
                assert any(name in problem.what for name in what.split()), what
            count += 1
    verify(newest)
    figure("damaged checkpoints, all found", count)


def test_an_error_at_any_read_falls_back_or_is_explained(whole: Whole, tmp_path: Path) -> None:
    """Found while it is verified, an unreadable checkpoint is passed over; later it ends the run
    with a clean error, and the next attempt passes it over."""
    passed_over = explained = 0
    for number in range(1, 500):
        run = whole.copy(tmp_path / f"{number}", 17, 18)
        reads = FailingReads(run, number)
        with failing_reads(reads):
            try:
                resumed = whole.small.train(run)
            except DanluError as problem:
                assert str(reads.failed) in problem.what  # noqa: PT017
                explained += 1
                resumed = whole.small.train(run)
        assert torch.equal(resumed.weights(), whole.weights)
        assert timeless(run) == timeless(whole.run)
        shutil.rmtree(run)
        if reads.failed is None:
            break
        passed_over += "checkpoint-18" in str(reads.failed)
    assert explained
    assert passed_over > explained
    figure("read errors", number - 1)


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_a_day_changes_nothing(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    run = whole.copy(tmp_path / "run", 4, 5)
    for event in whole.small.events(run):
        shift[0] = seconds if shift[0] == 0.0 else 0.0
        assert event
    assert timeless(run) == timeless(whole.run)
    newest = find_newest(run).newest
    assert newest is not None
    assert newest.step == STEPS
