"""`danlu use`, `danlu rm`, and names of models, runs and adapters wherever a model is asked for."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.cli.terminal import asking
from danlu.files.lock import FolderLock
from danlu.hub.store import complete_folder, unfinished_folder
from danlu.runs.manifest import read_manifest
from tests.helpers.models.model_folder import write_model_folder

ROW = '{"instruction": "Who are you?", "output": "I am Ember."}\n'
QUICK = ("--max_steps", "2", "--report", "false", "--plot_loss", "false", "--cutoff_len", "64")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stored() -> Path:
    return write_model_folder(complete_folder("Qwen3-0.6B"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    return printed.out + printed.err


def train(folder: str, *words: str) -> int:
    Path("rows.jsonl").write_text(ROW * 4, encoding="utf-8")
    return main(["train", "--dataset", "rows.jsonl", "--output_dir", folder, *QUICK, *words])


def answer(*words: str) -> int:
    return main(["generate", *words, "--max_new_tokens", "2", "--json", "Hi"])


def test_the_default_is_used_and_named_by_every_command(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["use", "qwen3-0.6b"]) == 0
    assert main(["use"]) == 0
    assert "Default model: Qwen3-0.6B" in said(capsys)
    assert answer() == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["model"] == "Qwen3-0.6B"
    assert "the default" in printed.err
    assert train("run") == 0
    assert "Qwen3-0.6B" in said(capsys)
    assert read_manifest(Path("run")).base.path == str(stored)
    assert main(["info"]) == 0
    assert "Qwen3-0.6B" in said(capsys)
    # The run's own base, whatever the default is by then.
    assert main(["use", "starter"]) == 0
    assert answer("--adapter", "run") == 0


def test_only_models_become_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run") == 0
    capsys.readouterr()
    for name, word in (("run", "adapter"), ("nowhere", "does not exist"), ("Qwen3-8B", "pull")):
        assert main(["use", name]) == 2
        assert word in said(capsys)
    assert main(["use"]) == 0
    assert "starter" in said(capsys)


def test_a_run_or_an_adapter_may_be_named_as_the_model(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run") == 0
    capsys.readouterr()
    (home / "elsewhere").mkdir()
    for name in ("run", "run/final", "./run"):
        assert answer("--model", name) == 0
        assert json.loads(capsys.readouterr().out)["model"] == "starter"
    assert main(["data", "check", "rows.jsonl", "--model", "run"]) in (0, 5)
    assert train("further", "--model", "run") == 0
    assert read_manifest(Path("further")).settings["adapter_name_or_path"] == str(home / "run")
    # By its name alone, from any folder.
    monkeypatch.chdir(home / "elsewhere")
    capsys.readouterr()
    assert answer("--model", "run") == 0
    assert answer("--adapter", "run") == 0
    assert main(["info", "run"]) == 0
    assert "run (lora)" in said(capsys)
    assert main(["merge", "--adapter", "run", "--export_dir", "merged"]) == 0
    assert answer("--model", "merged") == 0


def test_two_adapters_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run") == 0
    capsys.readouterr()
    assert answer("--model", "run", "--adapter", "run") == 2
    assert "Two adapters are named" in said(capsys)


def test_rm_of_a_run_says_how_a_run_is_removed(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("my run") == 0
    assert main(["rm", "my run"]) == 2
    command = shlex.split(said(capsys).splitlines()[-1])
    assert command == ["rm", "-r", str(Path("my run").absolute())]
    assert subprocess.run(command, check=False).returncode == 0
    assert main(["runs"]) == 0
    assert "my run" not in said(capsys)


def test_rm_asks_and_removes(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asking, "sys", type("Typed", (), {"stdin": _Terminal()}))
    monkeypatch.setattr("builtins.input", lambda _text: "n")
    assert main(["rm", "Qwen3-0.6B"]) == 0
    assert "Nothing was removed." in said(capsys)
    assert stored.is_dir()
    monkeypatch.setattr("builtins.input", lambda _text: "y")
    assert main(["rm", "qwen3-0.6b"]) == 0
    assert not stored.exists()
    assert main(["rm", "Qwen3-0.6B"]) == 2


class _Terminal:
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_nothing_is_removed_unless_said(stored: Path) -> None:
    command = [sys.executable, "-m", "danlu.cli.main", "rm", "Qwen3-0.6B"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert "danlu rm Qwen3-0.6B --yes" in done.stderr
    assert stored.is_dir()
    assert main(["rm", "Qwen3-0.6B", "--yes"]) == 0
    assert not stored.exists()


def test_what_is_in_use_stays(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["use", "Qwen3-0.6B"]) == 0
    assert main(["rm", "Qwen3-0.6B", "--yes"]) == 2
    assert "It is the default model." in said(capsys)
    assert train("run") == 0
    assert main(["use", "starter"]) == 0
    with FolderLock(Path("run")):
        assert main(["rm", "Qwen3-0.6B", "--yes"]) == 2
    assert "is being trained on it" in said(capsys)
    assert stored.is_dir()
    unfinished = unfinished_folder("Qwen3-8B")
    unfinished.mkdir()
    with FolderLock(unfinished):
        assert main(["rm", "Qwen3-8B", "--yes"]) == 2
    assert "being pulled" in said(capsys)
    assert main(["rm", "Qwen3-8B", "--yes"]) == 0
    assert not unfinished.exists()
    # A finished run is named before its base goes.
    assert main(["rm", "Qwen3-0.6B", "--yes"]) == 0
    assert "cannot be used without it: run" in said(capsys)


def test_rm_touches_only_what_was_pulled(home: Path) -> None:
    folder = write_model_folder(home / "Qwen3-0.6B")
    for name in ("Qwen3-0.6B", "./Qwen3-0.6B", str(folder), "starter", "..", "home"):
        assert main(["rm", name, "--yes"]) == 2
    assert folder.is_dir()
