"""Starting over and going on: nothing vanishes, and where it went is said."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.files.lock import FolderLock
from danlu.runs.checkpoints import list_checkpoints
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import start, train_words, write_rows

Screen = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    write_model_folder(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    return tmp_path


def words(place: Path, name: str, **changes: object) -> list[str]:
    return train_words(place / "model", place / "rows.jsonl", place / name, **changes)


def begin(words: list[str]) -> subprocess.Popen[str]:
    process: subprocess.Popen[str] = start(words, stdout=subprocess.PIPE, text=True)
    return process


def said_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """What a process prints, up to the line that holds a text."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError("\n".join(lines))


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.soak
def test_the_same_script_again_says_where_the_interrupted_run_is(place: Path) -> None:
    script = [*words(place, "run", max_steps=5000, save_steps=2), "--overwrite_output_dir"]
    first = begin(script)
    said_until(first, "saved checkpoint-4")
    interrupt(first)
    checkpoints = list_checkpoints(place / "run")
    step = checkpoints[-1].step
    other = [*words(place, "run", max_steps=7), "--overwrite_output_dir"]
    again = begin(other)
    said = said_until(again, "danlu runs trash")
    (trashed,) = (place / ".trash").iterdir()
    interrupt(again)
    assert any(line.endswith(f"is now in {trashed}") for line in said)
    how_far = f"interrupted, step {step} of 5000, checkpoints: {len(checkpoints)}."
    assert any(how_far in line for line in said)
    # The command that goes on with it does, as it is printed: with its settings, not the new ones.
    (line,) = (line for line in said if "To go on with it instead" in line)
    move, _and, resume = line.partition("then: ")[2].partition(" && ")
    subprocess.run(shlex.split(move), check=True)
    third = begin(shlex.split(resume)[1:])
    said_until(third, f"going on after step {step}")
    interrupt(third)
    assert (place / trashed.name).is_dir()


def test_a_finished_run_and_other_files_are_said_to_be_moved(place: Path, capsys: Screen) -> None:
    assert main(words(place, "run")) == 0
    capsys.readouterr()
    assert main([*words(place, "run"), "--overwrite_output_dir"]) == 0
    said = capsys.readouterr().out
    assert "It was a run: finished, step 6 of 6" in said
    assert "To go on with it" not in said
    (place / "notes").mkdir()
    (place / "notes" / "mine.txt").write_text("mine")
    assert main([*words(place, "notes"), "--overwrite_output_dir"]) == 0
    said = capsys.readouterr().out
    assert f"is now in {place / '.trash' / 'notes-'}" in said
    assert "It was a run" not in said


def test_the_trash_is_listed_and_emptied(place: Path, capsys: Screen) -> None:
    assert main(["runs", "trash"]) == 0
    assert "The trash is empty." in capsys.readouterr().out
    for _time in range(3):
        assert main([*words(place, "run", max_steps=2), "--overwrite_output_dir"]) == 0
    trash = place / ".trash"
    (trash / "mine").write_text("not moved by danlu")
    capsys.readouterr()
    assert main(["runs", "trash", "--json"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["name"] for entry in entries] == ["run", "run"]
    assert all(entry["size_bytes"] > 1000 for entry in entries)
    assert main(["runs", "trash"]) == 0
    assert str(trash) in capsys.readouterr().out
    used, free = (Path(entry["path"]) for entry in entries)
    with FolderLock(used):
        assert main(["runs", "trash", "--empty"]) == 0
    said = capsys.readouterr().out
    assert "Removed: 1" in said
    assert f"In use, and left: {used}" in said
    assert not free.exists()
    assert {path.name for path in trash.iterdir()} == {"mine", used.name}
    assert (place / "run" / "final").is_dir()


@pytest.mark.parametrize("command", ["runs list run", "runs trash run", "runs show run --empty"])
def test_words_that_an_action_would_ignore_are_refused(command: str, capsys: Screen) -> None:
    assert main(command.split()) == 2
    assert "has no meaning here" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_names_both_ways(place: Path, capsys: Screen) -> None:
    assert main(words(place, "r1", max_steps=4, save_steps=2)) == 0
    capsys.readouterr()
    elsewhere = words(place, "r2", resume_from_checkpoint=place / "r1" / "checkpoint-2")
    assert main(elsewhere) == 2
    what, why, fix = capsys.readouterr().err.splitlines()
    assert f"belongs to the run {place / 'r1'}" in what
    assert f"--output_dir names {place / 'r2'}" in why
    assert f"--output_dir {place / 'r1'} --resume_from_checkpoint checkpoint-2" in fix
    assert f"--adapter {place / 'r1' / 'checkpoint-2'}" in fix
    assert not (place / "r2").exists()
    # Both ways work.
    assert main(words(place, "r1", max_steps=4, resume_from_checkpoint="checkpoint-2")) == 0
    assert main(words(place, "r2", adapter=place / "r1" / "checkpoint-2")) == 0
    assert main(words(place, "r3", resume_from_checkpoint=place / "r1")) == 2
    assert "--resume_from_checkpoint true;" in capsys.readouterr().err


def test_another_programs_checkpoint_can_be_begun_from(place: Path, capsys: Screen) -> None:
    (place / "saves" / "checkpoint-10").mkdir(parents=True)
    named = place / "saves" / "checkpoint-10"
    assert main(words(place, "r", resume_from_checkpoint=named)) == 2
    what, _why, fix = capsys.readouterr().err.splitlines()
    assert "belongs to no run of danlu" in what
    assert f"--adapter {named}" in fix


def test_a_models_configuration_is_no_settings_file(place: Path, capsys: Screen) -> None:
    for command in ("train", "merge"):
        assert main([command, str(place / "model" / "config.json")]) == 2
        what, why, fix = capsys.readouterr().err.splitlines()
        assert "holds no settings" in what
        assert "configuration of a model" in why
        assert f"--model {place / 'model'}" in fix
    settings = {"dataset": str(place / "rows.jsonl"), "max_steps": 3}
    (place / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    assert main(["train", str(place / "run.json"), "max_steps=2", "--print_settings"]) == 0
    assert "max_steps: 2" in capsys.readouterr().out
