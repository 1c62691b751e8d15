"""docs/chat.md: its commands run, and every command of the chat is named; Chinese too."""

from __future__ import annotations

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
def test_the_page_is_true(page: str) -> None:
    listed = {command.name for command in command_table().values()}
    assert {name for line in page.splitlines() if line.startswith("| `/")
            for name in re.findall(r"`/([a-z]+)`", line)} == listed  # fmt: skip
    for line in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)[0].splitlines():
        program = f"{shlex.quote(sys.executable)} -m danlu.cli.main"
        script = line.replace("danlu chat", f"{program} chat")
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
