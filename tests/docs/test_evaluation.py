"""docs/evaluation.md: its commands run in order, and the figures and files it names are there.

Its Chinese twin has the same commands (test_twins.py).
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from danlu.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
CHINESE_PAGE = (ROOT / "docs" / "evaluation.zh-CN.md").read_text(encoding="utf-8")


def test_commands_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        capsys.readouterr()
        assert main(shlex.split(line)[1:]) == 0, line
    printed = json.loads(capsys.readouterr().out)
    for name in ("report.html", "report.md"):
        assert (tmp_path / "my-run" / name).is_file()
    results = json.loads((tmp_path / "scores" / "predict_results.json").read_text("utf-8"))
    assert results["predict_loss"] < printed["predict_loss"]
    for page in (PAGE, CHINESE_PAGE):
        table = "".join(line for line in page.splitlines() if line.startswith("| `"))
        named = {*re.findall(r"`(predict_[\w-]+)`", table), "predict_rouge-2", "predict_rouge-l"}
        missing = {name for name in results if name.startswith("predict_")} - named
        assert missing == {"predict_tokens", "predict_samples", "predict_runtime"}
        assert named <= results.keys()
