"""Rows to judge a model by are found where training found them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.text.tokenizer import Tokenizer
from danlu.workflows.held_out import judged_rows, read_dataset
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer


def test_a_dataset_dir_below_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    write_tiny_tokenizer(tmp_path)
    (tmp_path / "d").mkdir()
    rows = [{"instruction": f"Q{n}", "output": f"A{n}"} for n in range(6)]
    (tmp_path / "d" / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    info = {"mine": {"file_name": "rows.json"}}
    (tmp_path / "d" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    settings = {"dataset": "mine", "dataset_dir": "~/d", "val_size": 3.0}
    judged = judged_rows(settings, Tokenizer.load(tmp_path), limit=3)
    assert judged.held_out
    assert len(judged.questions) == judged.total == 3
    assert len(read_dataset("mine", Path("~/d"), max_samples=None)) == 6
