"""docs/training.md: its commands run, and what it says is in the output folder is there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.train.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_commands_run_and_leave_the_files_that_the_page_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
    section = PAGE.partition("## What is in the output folder")[2]
    named = {
        name.rstrip("/")
        for row in section.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([\w.-]+/?)`", row.split("|")[1])
    }
    assert len(named) >= 18
    present = {path.name for path in (tmp_path / "my-run").iterdir()}
    assert {name.replace("checkpoint-N", "checkpoint-20") for name in named} <= present


def test_the_table_of_presets_is_that_of_the_settings() -> None:
    table = [row.split("|")[1:-1] for row in PAGE.splitlines() if row.startswith("| ")]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in table}
    presets = list(TrainSettings.PRESETS.values())
    rates = [float(cell) for cell in rows["learning rate"]]
    assert rates == [float(preset["learning_rate"]) for preset in presets]
    ranks = [f"{p.get('lora_rank', '8')} / {p.get('lora_alpha', '16')}" for p in presets]
    assert rows["rank / alpha"] == ranks
    epochs = [re.search(r"\d", cell) for cell in rows["epochs"]]
    assert [found and found[0] for found in epochs] == [p["num_train_epochs"][0] for p in presets]
