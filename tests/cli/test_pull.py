"""`danlu pull`: what it says and returns, from the first byte to the model that is there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from danlu.cli.main import main
from danlu.files import download
from tests.helpers.hub_server import Hub, serving_hub
from tests.helpers.models.model_folder import write_model_folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    with serving_hub(write_model_folder(tmp_path / "published")) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.address)
        yield hub


@pytest.mark.parametrize("source", ["auto", "huggingface", "modelscope"])
def test_pull_lists_and_answers(
    source: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", "qwen3-0.6b", "--source", source]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "home" / "models" / "Qwen3-0.6B"
    assert f"Pulled and verified: {folder}" in said
    assert hub.address in said
    assert main(["models"]) == 0
    assert "  Qwen3-0.6B: " in capsys.readouterr().out.partition("Can be pulled")[0]
    assert main(["models", "--json"]) == 0
    records = map(json.loads, capsys.readouterr().out.splitlines())
    assert {r["folder"] for r in records if r["name"] == "Qwen3-0.6B"} == {str(folder)}
    hub.asked.clear()
    assert main(["pull", "Qwen3-0.6B"]) == 0
    assert "is here already" in capsys.readouterr().out
    assert hub.asked == []


def test_an_interrupted_pull_says_how_to_go_on(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    hub.cut_after = 20_000
    with monkeypatch.context() as patch:
        patch.setattr(
            download, "time", SimpleNamespace(sleep=interrupted, monotonic=time.monotonic)
        )
        assert main(["pull", "Qwen3-0.6B"]) == 130
    assert "Go on with: danlu pull Qwen3-0.6B" in capsys.readouterr().err
    assert main(["models"]) == 0
    assert "go on with danlu pull Qwen3-0.6B" in capsys.readouterr().out
    assert main(["pull", "Qwen3-0.6B"]) == 0
    assert "of it came before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("Qwen3-8b-bas", "danlu pull Qwen3-8B-Base"),
        ("Qwen3-30B-A3", "danlu pull Qwen3-30B-A3B"),
    ],
)
def test_what_cannot_be_pulled_is_said_with_what_can(
    name: str, fix: str, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", name]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[2] == fix


def test_offline_three_lines_say_why_and_what_is_here(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert main(["pull", "Qwen3-0.6B"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "Hugging Face" in lines[1]
    assert "ModelScope" in lines[1]
    assert "starter" in lines[2]
    assert "/api/" not in lines[1]  # whom to ask, not how
    monkeypatch.setenv("DANLU_LANG", "zh")
    assert main(["pull", "Qwen3-0.6B"]) == 3
    assert "。 " not in capsys.readouterr().err
