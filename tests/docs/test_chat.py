"""docs/chat.md: its commands run, and every command of the chat is named; Chinese too."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.chat.commands.table import command_table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [(DOCS / name).read_text(encoding="utf-8") for name in ("chat.md", "chat.zh-CN.md")]


@pytest.mark.parametrize("page", PAGES, ids=["English", "Chinese"])
def test_the_page_is_true(page: str, tmp_path: Path) -> None:
    listed = {command.name for command in command_table().values()}
    assert {name for line in page.splitlines() if line.startswith("| `/")
            for name in re.findall(r"`/([a-z]+)`", line)} == listed  # fmt: skip
    program = f"{shlex.quote(sys.executable)} -m danlu.cli.main"
    for line in "".join(re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)).splitlines():
        script = re.sub(r"\bdanlu (chat|generate)\b", rf"{program} \1", line)
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() or ">" in line
    answered = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [bool(json.loads(line)["answer"]) for line in answered] == [True, True]
