"""A model whose own chat template is not Qwen3's is trained and prompted in its own format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.dialog.assistant import open_assistant
from danlu.dialog.settings import ModelSettings
from danlu.hub.names import STARTER, model_folder
from danlu.runs.manifest import read_manifest
from tests.helpers.chat_templates import OWN_TEMPLATES, PLAIN_CHAT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    shutil.copytree(model_folder(STARTER), tmp_path / "m")
    for path in (tmp_path / "m").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    row = {"instruction": "Hi", "output": "Hello"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return tmp_path


def wears(folder: Path, template: str) -> None:
    (folder / "m" / "chat_template.jinja").write_text(template, encoding="utf-8")


def test_what_the_model_writes_is_learned_and_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wears(here, PLAIN_CHAT)
    assert main(["data", "preview", "rows.jsonl", "--model", "m"]) == 0
    out = capsys.readouterr().out
    assert "writes tools and calls in another way than qwen3_nothink" in out
    assert "<think>" not in out
    assert main(["data", "check", "rows.jsonl", "--model", "m", "--template", "qwen3"]) == 0
    assert "template is qwen3_nothink; qwen3 is used" in capsys.readouterr().out
    assert main(["data", "check", "rows.jsonl", "--model", "m", "--enable_thinking", "false"]) == 0
    assert "--enable_thinking changes nothing in qwen3_nothink" in capsys.readouterr().out
    assert main(["info", "m", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["template"], facts["own_template"]) == ("qwen3_nothink", "qwen3_nothink")


def test_training_and_answers_take_the_models_format(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wears(here, OWN_TEMPLATES["qwen3_thinking"])
    words = ["--dataset", "rows.jsonl", "--model", "m", "--output_dir", "run", "--max_steps", "1"]
    assert main(["train", *words, "--report", "false"]) == 0
    run = read_manifest(here / "run")
    assert run.template == "qwen3_thinking"
    assert run.settings["template"] == "qwen3_thinking"
    # Also after the folder's template has changed: the adapter stays as it was trained.
    wears(here, "{{ messages }}")
    opened = open_assistant(ModelSettings(adapter_name_or_path="run"))
    assert opened.prompting.template == "qwen3_thinking"
    assert "Template qwen3_thinking, thinking always" in opened.describe()
    [remark] = [line for line in opened.describe() if "chat_template.jinja" in line]
    assert "qwen3_thinking is used" in remark
    capsys.readouterr()
    again = [*words, "--template", "qwen3", "--overwrite_output_dir", "true", "--report", "false"]
    assert main(["train", *again]) == 0
    assert "chat_template.jinja) is none that danlu knows; qwen3 is used" in capsys.readouterr().out
