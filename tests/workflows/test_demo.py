"""The demo can be started again and again in the same home; only one runs at a time there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.demo import SKILLS
from danlu.cli.main import main
from danlu.engine.request import SamplingSettings
from danlu.files.committed import committed_folder, verify
from danlu.files.lock import FolderLock
from danlu.files.process import this_process
from danlu.runs.manifest import read_manifest
from danlu.train.job.finetune import Finetune
from danlu.train.settings import TrainSettings
from danlu.workflows import demo as demo_module
from danlu.workflows.demo import Demo

WHOLE_DATA = demo_module.DATA


def test_every_skill_of_the_demo_has_a_name_for_people() -> None:
    rows = json.loads((WHOLE_DATA / "held_out.json").read_text(encoding="utf-8"))
    assert {row["kind"] for row in rows} == set(SKILLS)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and a demo of seconds: few rows, few steps, short answers."""
    data = tmp_path / "data"
    data.mkdir()
    for name, count in (("rows.json", 12), ("held_out.json", 2)):
        rows = json.loads((demo_module.DATA / name).read_text(encoding="utf-8"))
        (data / name).write_text(json.dumps(rows[:count]), encoding="utf-8")

    def short(**settings: Any) -> TrainSettings:
        return TrainSettings(**{**settings, "max_steps": 2, "per_device_train_batch_size": 4})

    monkeypatch.setattr(demo_module, "DATA", data)
    monkeypatch.setattr(demo_module, "TrainSettings", short)
    monkeypatch.setattr(demo_module, "SAMPLING", SamplingSettings(temperature=0.0, max_tokens=4))
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_runs_from_beginning_to_end_and_once_more(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for language, other in (("zh_CN", "en"), ("en", "zh_CN")):
        monkeypatch.setenv("DANLU_LANG", language)
        assert main(["demo"]) == 0
        output = capsys.readouterr().out
        # It speaks with its user in one language only.
        assert all(f"> {question}" in output for question in asked_in(language))
        assert not any(question in output for question in asked_in(other))
        check_sections(home, output)


def asked_in(language: str) -> tuple[str, ...]:
    questions = demo_module.QUESTIONS[language]
    return (*questions.new, *questions.kept)


def check_sections(home: Path, output: str) -> None:
    """Whatever the language: all parts, the files they speak of, the commands for what is next."""
    assert all(f"── {number}. " in output for number in range(1, 6))
    assert str(home / "demo" / "run" / "loss.png") in output
    assert "danlu pull Qwen3-8B\n  danlu train --model Qwen3-8B" in output
    assert names(home / "demo") == {".lock", "run", "merged"}
    assert read_manifest(home / "demo" / "run").state == "finished"
    verify(home / "demo" / "merged")


def test_what_an_earlier_demo_left_is_removed(home: Path) -> None:
    demo = Demo(home)
    demo.run_folder.mkdir(parents=True)
    (demo.run_folder / "run.json").write_text("half a fi", encoding="utf-8")
    with committed_folder(demo.merged_folder) as draft:
        draft.write("model.safetensors", b"old")
    # What a process that died while it cleaned up would leave; no process has that number.
    host = this_process().host
    for name in (".run.gone", ".merged.draft"):
        (demo.folder / f"{name}-999999999-1-{host}-0").mkdir()
    (demo.folder / "notes.txt").write_text("not the demo's", encoding="utf-8")
    with demo.started_over():
        assert names(demo.folder) == {".lock", "notes.txt"}


def test_only_one_demo_at_a_time(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Demo(home)
    demo.run_folder.mkdir(parents=True)
    with FolderLock(demo.folder):
        assert main(["demo"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 3
        assert "in use" in lines[0]
        assert demo.run_folder.exists()
    with demo.started_over():
        assert not demo.run_folder.exists()


def test_interrupted_in_training_it_starts_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo, finetune = Demo(home), Demo.finetune

    def interrupted(self: Demo) -> Finetune:
        job = finetune(self)
        job.request_stop()
        return job

    with monkeypatch.context() as patch:
        patch.setattr(Demo, "finetune", interrupted)
        assert main(["demo"]) == 130
    assert "starts over" in capsys.readouterr().err
    assert read_manifest(demo.run_folder).state == "interrupted"
    with demo.started_over():
        list(demo.finetune().run())
    assert read_manifest(demo.run_folder).state == "finished"
