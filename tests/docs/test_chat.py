"""docs/chat.md: its commands run, and every command of the chat is named; Chinese too."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from danlu.chat.commands.table import command_table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [(DOCS / name).read_text(encoding="utf-8") for name in ("chat.md", "chat.zh-CN.md")]


both_pages = pytest.mark.parametrize("page", PAGES, ids=["English", "Chinese"])


@both_pages
def test_every_command_of_the_chat_is_named(page: str) -> None:
    listed = {command.name for command in command_table().values()}
    assert {name for line in page.splitlines() if line.startswith("| `/")
            for name in re.findall(r"`/([a-z]+)`", line)} == listed  # fmt: skip


@pytest.mark.soak
@both_pages
def test_its_commands_run(page: str) -> None:
    commands = "".join(re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL))
    assert answered(commands) == [True, True]


@cache
def answered(commands: str) -> list[bool]:
    """Run a page's commands; the languages' are mostly the same. Says which rows have answers."""
    program = f"{shlex.quote(sys.executable)} -m danlu.cli.main"
    with TemporaryDirectory() as folder:
        for line in commands.splitlines():
            script = re.sub(r"\bdanlu (chat|generate)\b", rf"{program} \1", line)
            done = subprocess.run(
                ["sh", "-c", script], capture_output=True, text=True, check=False, cwd=folder
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip() or ">" in line
        rows = (Path(folder) / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [bool(json.loads(row)["answer"]) for row in rows]
