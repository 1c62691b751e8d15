"""danlu runs: every run of the machine is listed, shown and can be stopped after it was saved."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.files.lock import LOCK_FILE, FolderLock
from danlu.files.process import this_process
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import read_manifest, write_manifest
from danlu.runs.metrics import read_metrics
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import start, train_words, write_rows
from tests.helpers.training.whole_run import wait_for_step
from tests.helpers.waiting import PATIENCE_S

Screen = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    write_model_folder(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    return tmp_path


def words(place: Path, name: str, **changes: object) -> list[str]:
    return train_words(place / "model", place / "rows.jsonl", place / name, **changes)


def test_runs_are_listed_and_shown_by_name_or_folder(place: Path, capsys: Screen) -> None:
    assert main(["runs"]) == 0
    assert "No runs yet" in capsys.readouterr().out
    for name in ("first", "第二"):
        assert main(words(place, name, val_size=4)) == 0
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {Path(run["path"]).name for run in listed} == {"first", "第二"}
    assert {run["state"] for run in listed} == {"finished"}
    assert all(run["step"] == 6 and run["eval_loss"] and run["size_bytes"] for run in listed)
    assert main(["runs"]) == 0
    table = capsys.readouterr().out
    assert "first" in table
    assert "第二" in table
    for given in ("first", str(place / "first")):
        assert main(["runs", "show", given]) == 0
        assert "finished" in capsys.readouterr().out


def test_a_run_whose_process_is_gone_is_not_called_running(place: Path, capsys: Screen) -> None:
    process = start(words(place, "killed", max_steps=5000), stdout=subprocess.DEVNULL)
    wait_for_step(process, place / "killed", 3)
    process.kill()
    process.wait()
    assert main(["runs", "show", "killed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "died"


def test_stop_saves_first(place: Path, capsys: Screen) -> None:
    process = start(words(place, "long", max_steps=5000), stdout=subprocess.DEVNULL)
    try:
        wait_for_step(process, place / "long", 3)
        assert main(["runs", "stop", "long"]) == 0
        assert process.wait(timeout=PATIENCE_S) == 130
    finally:
        process.kill()
    step = list_checkpoints(place / "long")[-1].step
    assert step == read_metrics(place / "long")[-1]["step"] >= 3
    assert read_manifest(place / "long").state == "interrupted"
    assert f"Stopped at step {step}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("runs show nothing", "There is no run nothing"),
        ("runs stop", "needs a run"),
        ("runs fly", "action"),
    ],
)
def test_wrong_commands(place: Path, capsys: Screen, command: str, says: str) -> None:
    assert main(command.split()) == 2
    assert says in capsys.readouterr().err


def test_a_finished_run_cannot_be_stopped(place: Path, capsys: Screen) -> None:
    assert main(words(place, "done")) == 0
    assert main(["runs", "stop", "done"]) == 2
    assert "not going on" in capsys.readouterr().err


def test_stop_signals_no_process_that_does_not_hold_the_run(place: Path, capsys: Screen) -> None:
    assert main(words(place, "done")) == 0
    run = place / "done"
    write_manifest(run, read_manifest(run).changed(state="running"))
    with subprocess.Popen(["sleep", "60"]) as innocent:
        started = Path(f"/proc/{innocent.pid}/stat").read_text().rpartition(")")[2].split()[19]
        forged = {"pid": innocent.pid, "started": int(started), "host": this_process().host}
        (run / LOCK_FILE).write_text(json.dumps(forged))
        capsys.readouterr()
        assert main(["runs", "stop", "done"]) == 2
        assert "Its state is died" in capsys.readouterr().err
        with FolderLock(run):  # held, by somebody else than the text says
            (run / LOCK_FILE).write_text(json.dumps(forged))
            assert main(["runs", "stop", "done"]) == 3
            assert "another machine" in capsys.readouterr().err
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.parametrize("bad", ["nesting", "device", "pipe", "no path", "bad run"])
def test_one_bad_entry_does_not_hide_the_others(
    place: Path, capsys: Screen, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    assert main(words(place, "done")) == 0
    entry = place / "home" / "runs" / "0.json"
    if bad == "nesting":
        entry.write_text("[" * 100_000)
    elif bad == "device":
        entry.symlink_to("/dev/zero")
    elif bad == "pipe":
        os.mkfifo(entry)
    elif bad == "no path":
        entry.write_text('{"path": 1}')
    else:
        (place / "bad").mkdir()
        os.mkfifo(place / "bad" / "run.json")
        entry.write_text(json.dumps({"path": str(place / "bad")}))
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["path"] == str(place / "done")
    [warning] = caplog.messages
    assert "A run is not shown. " in warning
    assert ("bad/run.json" if bad == "bad run" else "0.json") in warning
