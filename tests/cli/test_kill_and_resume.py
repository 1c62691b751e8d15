"""A run that is killed and resumed ends with the very bytes of a run that was left alone."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.files.committed import verify
from danlu.runs.checkpoints import find_newest, list_checkpoints
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from tests.helpers.model_folder import write_model_folder
from tests.helpers.program import leftovers, start, train_words, write_rows

STEPS = 120
RESUME = ("--resume_from_checkpoint", "true")
# danlu on a disk that kills the process, as kill -9 does, at one operation: NAME at a path that
# holds PART; a write stops in the middle.
MORTAL = """
import os, signal, sys
from danlu.cli.main import main
from danlu.files import disk

name, part, *words = sys.argv[1:]
real = getattr(disk.Disk, name)

def operation(self, *values):
    place = str(values[0].name if name == "write" else values[-1])
    if part in place:
        if name == "write":
            real(self, values[0], values[1][: len(values[1]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *values)

setattr(disk.Disk, name, operation)
sys.exit(main(words))
"""
# In one run, one after another: half a checkpoint is written; a checkpoint is complete but for its
# name; an old one is being removed; the result is there but not yet shown at the root.
DEATHS = [
    ("write", ".checkpoint-40.draft"),
    ("rename", "checkpoint-80"),
    ("remove_tree", ".checkpoint-40.gone"),
    ("link", "adapter_model.safetensors"),
]


class Place:
    """A model, rows, and the run that nobody disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_model_folder(folder / "model")
        self.rows = write_rows(folder / "rows.jsonl")
        self.whole = folder / "whole"
        assert main(self.words("whole")) == 0

    def words(self, name: str, **changes: object) -> list[str]:
        settings = {"max_steps": STEPS, "save_steps": 20, "save_total_limit": 2}
        settings |= {"val_size": 4, "eval_steps": 30, "logging_steps": 50}
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


def timeless(run: Path) -> list[dict[str, object]]:
    """The metrics without how long things took."""
    return [
        {key: value for key, value in record.items() if "seconds" not in key}
        for record in read_metrics(run)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("runs"))


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """danlu as a process of its own, never left behind; `log` gets what it prints."""
    with log.open("wb") as file, start(words, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    """Return as soon as the metrics show that a step is done."""
    for _attempt in range(6000):
        metrics = read_metrics(run)
        if metrics and metrics[-1]["step"] >= step:
            return
        assert process.poll() is None, "it ended too early"
        time.sleep(0.01)
    raise AssertionError("it never came so far")


def test_killed_again_and_again_the_result_is_the_same(place: Place) -> None:
    words = place.words("killed")
    with running(words, place.folder / "log") as process:
        wait_for_step(process, place.folder / "killed", 25)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    for name, part in DEATHS:
        with start([name, part, *words, *RESUME], program=MORTAL) as process:
            assert process.wait() == -signal.SIGKILL
        saved = list_checkpoints(place.folder / "killed")
        assert saved
        for checkpoint in saved:
            verify(checkpoint.path)
    assert main([*words, *RESUME]) == 0
    place.assert_as_if_undisturbed("killed")


def test_ctrl_c_saves_the_last_step(place: Place) -> None:
    words, run = place.words("stopped", save_steps=1000), place.folder / "stopped"
    log = place.folder / "log"
    with running(words, log) as process:
        wait_for_step(process, run, 5)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert "--resume_from_checkpoint true" in log.read_text(encoding="utf-8")
    newest = find_newest(run).newest
    assert newest is not None
    assert 5 <= newest.step < STEPS
    assert read_metrics(run)[-1]["step"] == newest.step
    assert read_manifest(run).state == "interrupted"
    assert main([*words, *RESUME]) == 0
    place.assert_as_if_undisturbed("stopped")


def test_a_damaged_checkpoint_is_named_and_skipped(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words, run = place.words("damaged", max_steps=60), place.folder / "damaged"
    assert main(words) == 0
    whole = (run / "final" / "adapter_model.safetensors").read_bytes()
    path = run / "checkpoint-60" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert main([*words, *RESUME]) == 0
    output = capsys.readouterr().out
    assert "skipped:" in output
    assert str(path) in output
    assert "going on after step 40" in output
    assert (run / "final" / "adapter_model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "diff"),
    [
        ({"learning_rate": 0.001}, "learning_rate: 0.005 -> 0.001"),
        ({"lora_rank": 4, "max_steps": 9}, "lora_rank: 8 -> 4; max_steps: 120 -> 9"),
        ({"lora_target": "q_proj"}, "lora_target: all -> q_proj"),
    ],
)
def test_other_settings_are_refused_by_name(
    place: Place, capsys: pytest.CaptureFixture[str], changes: dict[str, object], diff: str
) -> None:
    # As settings stand in their class, not as they were typed.
    order = sorted(changes)
    assert_refused(place, capsys, {name: changes[name] for name in order}, diff)


def test_other_data_and_another_base_are_refused(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = place.rows.read_text(encoding="utf-8")
    weights = place.model / "model.safetensors"
    base = weights.read_bytes()
    try:
        place.rows.write_text(rows.replace("fox 3?", "fox three?"), encoding="utf-8")
        assert_refused(place, capsys, {}, "data: ")
        place.rows.write_text(rows, encoding="utf-8")
        weights.write_bytes(base[:-64] + bytes(64))
        assert_refused(place, capsys, {}, "base model: ")
    finally:
        place.rows.write_text(rows, encoding="utf-8")
        weights.write_bytes(base)


def assert_refused(
    place: Place, capsys: pytest.CaptureFixture[str], changes: dict[str, object], diff: str
) -> None:
    """Resuming is refused with the difference, and the run stays as it was."""
    before = (place.whole / "run.json").read_bytes()
    assert main([*place.words("whole", **changes), *RESUME]) == 2
    what, why, fix = capsys.readouterr().err.splitlines()
    assert "cannot be resumed" in what
    assert diff in why
    assert why.count("->") == diff.count("->") or diff.endswith(": ")
    assert "run.json" in fix
    assert (place.whole / "run.json").read_bytes() == before


def test_a_run_without_a_checkpoint_must_start_anew(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words, run = place.words("early", max_steps=4), place.folder / "early"
    assert main(words) == 0
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**manifest, "state": "running"}), encoding="utf-8")
    for checkpoint in list_checkpoints(run):
        checkpoint.path.rename(place.folder / "elsewhere")
    assert main([*words, *RESUME]) == 2
    what, _why, fix = capsys.readouterr().err.splitlines()
    assert "no checkpoint" in what
    assert "--overwrite_output_dir" in fix
    assert main([*words, "--overwrite_output_dir"]) == 0
