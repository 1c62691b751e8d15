"""`danlu merge`: what it asks, refuses and says; every command that it prints runs as printed."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.dialog.assistant import open_assistant
from danlu.dialog.settings import ModelSettings
from danlu.runs.manifest import read_manifest, write_manifest
from tests.export.test_merge import write_random_adapter
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import train_words, write_rows

Screen = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a finished run, and a copy of the run as if it had been stopped."""
    folder = tmp_path_factory.mktemp("merging")
    write_model_folder(folder / "model")
    rows = write_rows(folder / "rows.jsonl")
    words = train_words(folder / "model", rows, folder / "run", max_steps=2, save_steps=1)
    assert main(words) == 0
    half = folder / "half"
    shutil.copytree(folder / "run", half, symlinks=True)
    for name in ("final", "checkpoint-2"):
        shutil.rmtree(half / name)
    write_manifest(half, read_manifest(half).changed(state="interrupted"))
    return folder


@pytest.fixture
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(prepared)
    return prepared


def merge_report(folder: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads((folder / "merge_report.json").read_text("utf-8"))
    return report


def refused(screen: Screen, *words: str) -> list[str]:
    """Run a merge that is refused; return the three lines of the error."""
    screen.readouterr()
    assert main(["merge", *words]) == 2
    lines = screen.readouterr().err.splitlines()[-3:]
    assert len(lines) == 3
    return lines


def test_a_checkpoint_of_a_finished_run_is_called_so(here: Path, capsys: Screen) -> None:
    for adapter, said in (("run/checkpoint-1", True), ("run", False)):
        target = f"of-{Path(adapter).name}"
        assert main(["merge", "--adapter", adapter, "--export_dir", target]) == 0
        out = capsys.readouterr().out
        attention = "checkpoint-1 of the run is used, not its end: it went on and finished"
        assert (attention in out) is said


def test_a_second_merge_into_a_folder_says_a_command_that_runs(here: Path, capsys: Screen) -> None:
    words = ["--adapter", "run=0.5", "--export_dir", "into this", "--enable_thinking", "false"]
    assert main(["merge", *words]) == 0
    _what, why, fix = refused(capsys, *words)
    assert "It holds a merged model" in why
    assert main(shlex.split(fix)[1:]) == 0
    # All that was said counts in the printed command, too.
    assert merge_report(here / "into this") == merge_report(here / "into this-2")
    assert merge_report(here / "into this-2")["enable_thinking"] is False


def test_an_unfinished_run_is_merged_only_by_who_wants_it(here: Path, capsys: Screen) -> None:
    # A chat only says so, above its first prompt.
    described = open_assistant(ModelSettings(adapter_name_or_path="half")).describe()
    assert any("not its end: it was interrupted" in line for line in described)
    words = ["--adapter", "half", "--export_dir", "of-half"]
    what, why, fix = refused(capsys, *words)
    assert "is not finished: it was interrupted" in what
    assert "checkpoint-1" in why
    assert not (here / "of-half").exists()
    resume, merge = (part.partition(": ")[2] for part in fix.split("; "))
    assert main(shlex.split(merge)[1:]) == 0
    assert merge_report(here / "of-half")["adapter"] == str(here / "half" / "checkpoint-1")
    # Whoever names the checkpoint means it.
    named = ["--adapter", "half/checkpoint-1", "--export_dir", "of-named"]
    assert main(["merge", *named]) == 0
    place, _and, command = resume.rpartition(" && ")
    assert place in ("", f"cd {read_manifest(here / 'half').cwd}")
    assert main(shlex.split(command)[1:]) == 0
    assert read_manifest(here / "half").state == "finished"
    assert main(["merge", *words[:2], "--export_dir", "of-whole"]) == 0


@pytest.mark.parametrize(("answer", "is_merged"), [("", False), ("y", True)])
def test_on_a_terminal_it_asks(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Screen,
    answer: str,
    is_merged: bool,
) -> None:
    shutil.copytree(here / "run", tmp_path / "stopped", symlinks=True)
    shutil.rmtree(tmp_path / "stopped" / "final")
    run = read_manifest(tmp_path / "stopped")
    write_manifest(tmp_path / "stopped", run.changed(state="failed"))
    asked = []

    def type_it(question: str) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", type_it)
    words = ["--adapter", str(tmp_path / "stopped"), "--export_dir", str(tmp_path / "merged")]
    assert main(["merge", *words]) == 0
    out = capsys.readouterr().out
    assert "not its end: it failed" in out
    assert asked == ["Merge it all the same? [y/N] "]
    assert (tmp_path / "merged").exists() is is_merged
    assert ("Nothing was merged." in out) is not is_merged


def test_the_default_model_is_never_the_base_of_a_foreign_adapter(
    here: Path, tmp_path: Path, capsys: Screen
) -> None:
    """Its own base is used, and named where it is not here, or not the one that is given."""
    foreign = write_random_adapter(tmp_path / "foreign", here / "model")
    config = foreign / "adapter_config.json"
    fields = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**fields, "base_model_name_or_path": "someone/qwen"}), "utf-8")
    (foreign / "manifest.json").unlink()
    words = ["--adapter", str(foreign), "--export_dir", str(tmp_path / "merged")]
    _what, why, fix = refused(capsys, *words)
    assert "someone/qwen" in why
    assert "--model_name_or_path" in fix
    assert main(["merge", *words, "--model", str(here / "model")]) == 0
    assert "names someone/qwen as its base and is used with" in capsys.readouterr().out
    assert main(["merge", *words, "--model", "starter", "--export_dir", "no"]) == 5
    assert "someone/qwen" in capsys.readouterr().err.splitlines()[-1]


def test_adapters_of_two_bases_are_not_merged_into_the_first(
    here: Path, tmp_path: Path, capsys: Screen
) -> None:
    other = write_model_folder(tmp_path / "other", seed=7)
    adapters = [
        write_random_adapter(tmp_path / name, base)
        for name, base in (("one", here / "model"), ("two", other))
    ]
    words = ["--adapter", ",".join(map(str, adapters)), "--export_dir", str(tmp_path / "merged")]
    what, why, _fix = refused(capsys, *words)
    assert "different base models" in what
    assert str(other) in why
    assert str(here / "model") in why


def test_an_adapter_that_changes_nothing_is_no_success(
    here: Path, tmp_path: Path, capsys: Screen
) -> None:
    fresh = write_random_adapter(tmp_path / "fresh", here / "model", scale=0.0)
    assert main(["merge", "--adapter", str(fresh), "--export_dir", str(tmp_path / "merged")]) == 0
    out = capsys.readouterr().out
    assert "ATTENTION: the merged model is the base" in out
    assert "The merge is right" not in out


def test_a_name_of_nothing_is_looked_for_as_a_run(here: Path, capsys: Screen) -> None:
    what, why, _fix = refused(capsys, "nosuch", "--export_dir", "merged-nothing")
    assert "nosuch is not an adapter folder" in what
    assert "adapter_config.json" in why
