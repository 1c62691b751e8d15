"""`danlu models`: a table for 80 columns in both languages, and one JSON object a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from danlu.cli.main import main
from danlu.hub.catalogue.published import published_models


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_fits_80_columns(
    language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DANLU_LANG", language)
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index("") :]
    assert max(map(cell_len, table)) <= 80
    rows = [line for line in table if line.startswith("  Qwen3-")]
    assert [row.split()[0] for row in rows] == [model.name for model in published_models()]
    # Right edges of the figures stand under each other, whatever the heads' language.
    assert len({cell_len(row) for row in rows}) == 1


def test_json_has_every_model_with_its_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    records = {r["name"]: r for r in map(json.loads, capsys.readouterr().out.splitlines())}
    small, experts = records["Qwen3-0.6B"], records["Qwen3-30B-A3B"]
    assert small["huggingface"] == small["modelscope"] == "Qwen/Qwen3-0.6B"
    assert small["license"] == "Apache-2.0"
    assert small["folder"] is None
    assert set(small["memory_bytes"]) == {"chat_bf16", "chat_int8", "chat_int4", "lora", "full"}
    # All weights are in memory, a tenth of them is computed with.
    assert experts["memory_bytes"]["chat_bf16"] > experts["file_bytes"] == 61_064_245_248
    assert 0.1 < experts["active_parameters"] / experts["parameters"] < 0.12
    assert small["active_parameters"] == small["parameters"]
