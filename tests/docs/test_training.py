"""docs/training.md: its commands run, and what it says is in the output folder is there.

Its Chinese twin has the same commands and figures (test_twins.py).
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.device.datasheets import CATALOGUE, DeviceFacts
from danlu.device.variants import attention_facts
from danlu.lora.adapter import ALL_TARGETS
from danlu.model.recompute import POLICIES
from danlu.model.sizes import published_config
from danlu.plan.job import BatchShape, Job
from danlu.plan.memory import kept_per_token
from danlu.train.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
CHINESE_PAGE = (ROOT / "docs" / "training.zh-CN.md").read_text(encoding="utf-8")


@pytest.mark.soak
def test_commands_run_and_leave_the_files_that_the_page_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 8
    for line in lines:
        # What a preset does in many steps it does in two.
        fewer = ["--max_steps", "2"] if "--preset" in line else []
        assert main([*shlex.split(line)[1:], *fewer]) == 0, line
    present = {path.name for path in (tmp_path / "my-run").iterdir()}
    for page in (PAGE, CHINESE_PAGE):
        named = {
            name.rstrip("/")
            for row in page.rpartition("\n## ")[2].splitlines()
            if row.startswith("| `")
            for name in re.findall(r"`([\w.-]+/?)`", row.split("|")[1])
        }
        assert len(named) >= 18
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


def test_the_table_of_recomputation_is_that_of_the_plan() -> None:
    section = PAGE.partition("## Memory and time")[2].partition("\n## ")[0]
    rows = [row.split("|")[1:-1] for row in section.splitlines() if row.startswith("| ")][1:]
    assert tuple(cells[0].strip() for cells in rows) == POLICIES
    config = published_config("Qwen3-8B")
    assert config is not None
    job = Job(config=config, number_bytes=2, ranks=dict.fromkeys(ALL_TARGETS, 8))
    shape = BatchShape(tokens=1000, targets=800, squares=10**5, segments=8)
    for cells in rows[:-1]:
        stated = float(cells[2].split()[0])
        kept = 36 * kept_per_token(job, cells[0].strip(), CATALOGUE["h100-80g"], shape)  # type: ignore[arg-type]
        assert abs(kept / 1e6 - stated) < 0.006
    card = CATALOGUE["ascend-910b-64g"]
    by_row = replace(card, attention=attention_facts("npu", "sdpa"))

    def kept_more(device: DeviceFacts) -> float:
        kept, usual = (
            kept_per_token(job, "none", one, shape) for one in (device, CATALOGUE["h100-80g"])
        )
        return 36 * (kept - usual) / 1e6

    mask = 36 * by_row.attention.segment_bytes / 1e6
    joined = kept_more(by_row) - kept_more(card) - 8 * mask / shape.tokens
    said = " ".join(PAGE.split())
    assert f"`none` keeps {kept_more(card):.2f} MB a token more." in said
    assert f"keeps {joined:.2f} MB a token more, and on an Ascend {mask:.0f} MB for each" in said
