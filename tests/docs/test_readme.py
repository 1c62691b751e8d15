"""The README's commands do what they say, in both languages."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.cli.main import main
from tests.helpers.program import free_port, serving

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "README.zh-CN.md")


def commands(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def ask_the_server(words: list[str]) -> list[str]:
    """Start the server, ask as both pages do, return the answers."""
    port, answers = free_port(), []
    with serving([word.replace("8000", port) for word in words]):
        for page in PAGES:
            text = (ROOT / page).read_text(encoding="utf-8").replace("8000", port)
            (command,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
            (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
            for call in (
                [*shlex.split(command), "--silent", "--fail-with-body"],
                [sys.executable, "-c", program],
            ):
                done = subprocess.run(call, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
                assert "Ember" in done.stdout or "小雪" in done.stdout
                answers.append(done.stdout)
    return answers


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's commands need curl")
def test_commands_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What differs in the Chinese page, the questions, is run behind what the English one has."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    pages = [[line for line in commands(page) if line.startswith("danlu ")] for page in PAGES]
    assert len(pages[0]) >= 5
    served = 0
    for same in zip(*pages, strict=True):
        for line in dict.fromkeys(same):
            if line.startswith("danlu serve "):
                served += len(ask_the_server(shlex.split(line)[1:]))
            else:
                assert main(shlex.split(line)[1:]) == 0, line
    assert served == 4
    said = capsys.readouterr().out
    # The adapter and the merged model both give the identity of the example's rows.
    assert said.count("Ember") >= 2
    assert said.count("小雪") >= 2
    # And not only of the row that was asked for: all rows, in both languages.
    assert main(["eval", "my-run", "--dataset", "examples/identity.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predict_exact_match"] >= 95


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = {line.split()[1] for line in commands(page) if line.startswith("make ")}
    targets |= set(re.findall(r"`make ([\w-]+)", text))
    assert {"demo", "test", "setup"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES)
def test_the_command_is_made_known_before_it_is_used(page: str) -> None:
    lines = commands(page)
    first = next(index for index, line in enumerate(lines) if line.startswith("danlu "))
    assert "source .venv/bin/activate" in lines[:first]


def test_both_languages_show_the_same_commands() -> None:
    english, chinese = (
        [line for line in commands(page) if not line.startswith("danlu generate")] for page in PAGES
    )
    assert english == chinese


@pytest.mark.parametrize("page", [*PAGES, "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
