"""docs/export.md: its commands run in order, its settings exist; the Chinese page says the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from danlu.cli.export import ExportSettings
from danlu.cli.main import main
from danlu.cli.merge import MergeSettings
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import train_words, write_rows

ROOT = Path(__file__).resolve().parents[2]
PAGE, CHINESE = (
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("export.md", "export.zh-CN.md")
)


def test_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the Chinese page are the same, which another test holds."""
    monkeypatch.chdir(tmp_path)
    rows = write_rows(tmp_path / "rows.jsonl")
    model = write_model_folder(tmp_path / "model")
    assert main(train_words(model, rows, tmp_path / "my-run", max_steps=2)) == 0
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
    assert Path("my-gguf/my-model-bf16.gguf").is_file()  # the name in the check below
    assert "FROM ./my-model-q8_0.gguf" in Path("my-ollama/Modelfile").read_text("utf-8")


def test_settings_exist() -> None:
    known = {*MergeSettings.model_fields, *ExportSettings.model_fields, "adapter", "jinja"}
    assert set(re.findall(r"--([a-z_]+)", PAGE)) <= known


def test_the_chinese_page_has_the_same_commands_and_settings() -> None:
    def said(page: str) -> tuple[list[str], set[str], int]:
        fenced = re.findall(r"```(?:text|bash)\n(.*?)```", page, flags=re.DOTALL)
        table = [line for line in page.splitlines() if line.startswith("| ")]
        return fenced, set(re.findall(r"`[^`\n]+`", page)), len(table)

    assert said(CHINESE) == said(PAGE)
