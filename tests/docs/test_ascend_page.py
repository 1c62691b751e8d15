"""docs/ascend.md and its Chinese: the figures are the plan's, the commands take their words.

`python -m tests.docs.test_ascend_page` writes the tables of figures anew after the plan changed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.device.datasheets import CATALOGUE, GIB
from danlu.hub.catalogue.needs import needs
from danlu.model.sizes import published_config
from danlu.program import COMMANDS
from tests.helpers.source import ROOT

PAGES = {"en": ROOT / "docs" / "ascend.md", "zh": ROOT / "docs" / "ascend.zh-CN.md"}
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
CARDS = ("ascend-910b3-64g", "ascend-910b-32g")
HEADS = {
    "en": ("Qwen3-8B on", "910B3, 64 GiB", "910B4, 32 GiB"),
    "zh": ("Qwen3-8B 所用的卡", "910B3，64 GiB", "910B4，32 GiB"),
}
CHATS = {
    "chat_bf16": ("chat and serve", "对话和服务"),
    "chat_int8": ("the same, weights in int8", "同上，权重为 int8"),
    "chat_int4": ("the same, weights in int4", "同上，权重为 int4"),
}
ROWS = 1000
STEP_5 = "--learning_rate 3e-4 --num_train_epochs 10 --gradient_accumulation_steps 2"
TRAININGS = {
    f"--dataset {ROOT / 'examples' / 'identity.jsonl'} {STEP_5}": (
        "LoRA, the 60 rows of step 5",
        "LoRA，第 5 步的 60 行",
    ),
    "--dataset long.jsonl --cutoff_len 1024 --gradient_accumulation_steps 8": (
        f"LoRA, {ROWS:,} rows of some 900 tokens, three passes",
        f"LoRA，{ROWS:,} 行、每行约 900 词元，三轮",
    ),
}
SECONDS = {"en": "{0:.0f} s for the steps", "zh": "各步共 {0:.0f} 秒"}
MINUTES = {"en": "{0:.0f} min for the steps", "zh": "各步共 {0:.0f} 分钟"}


def said(*words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(list(words)) == 0, words
    return out.getvalue()


def table(language: str) -> str:
    """Write a page's table of figures; a file of long rows lies in the working folder."""
    place = list(PAGES).index(language)
    row = json.dumps({"instruction": "Why?", "output": "Because of the words. " * 180})
    Path("long.jsonl").write_text(f"{row}\n" * ROWS, encoding="utf-8")
    config = published_config("Qwen3-8B")
    assert config is not None
    lines = [HEADS[language], ("---",) * len(HEADS[language])]
    for kind, titles in CHATS.items():
        found = [needs(config, CATALOGUE[card], CATALOGUE[card].memory_bytes) for card in CARDS]
        lines.append((titles[place], *(f"{one[kind].num_bytes / GIB:.1f} GiB" for one in found)))
    for words, titles in TRAININGS.items():
        cells = []
        for card in CARDS:
            plan = ["plan", "--model", "Qwen3-8B", "--device", card, *shlex.split(words), "--json"]
            figures = json.loads(said(*plan))
            seconds = figures["total_s"]
            time = (MINUTES if seconds >= 120 else SECONDS)[language]
            gib = figures["memory_bytes"]["total"] / GIB
            cells.append(
                f"{gib:.1f} GiB, " + time.format(seconds / 60 if seconds >= 120 else seconds)
            )
        lines.append((titles[place], *cells))
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text.replace(" GiB, ", " GiB，") if language == "zh" else text


@pytest.mark.parametrize("language", PAGES)
def test_the_figures_are_those_of_the_plan(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    page = PAGES[language].read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == f"\n{table(language)}\n"


def blocks(page: Path) -> list[str]:
    """Return the commands of a page's blocks of bash, one a line."""
    found = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in found for line in block.splitlines()]


def inline(page: Path) -> list[str]:
    """Return what stands in backticks in the last section's third column."""
    rows = page.read_text(encoding="utf-8").rpartition("\n## ")[2].splitlines()
    cells = [row.strip("|").split("|")[2] for row in rows if row.startswith("| ")][1:]
    return [command for cell in cells for command in re.findall(r"`([^`]+)`", cell)]


def danlu_words(command: str) -> list[str] | None:
    """Return the words behind `danlu` in a command; None where it is another program's."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    return words[1:] if words[:1] == ["danlu"] else None


@pytest.mark.parametrize("language", PAGES)
def test_every_command_takes_the_words_that_it_is_given(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [*blocks(PAGES[language]), *inline(PAGES[language])]
    asked = [words for command in commands if (words := danlu_words(command)) is not None]
    assert len(asked) >= 20
    for words in asked:
        assert words[0] in COMMANDS
        said(*words, "--print_settings")


def test_each_step_is_one_command() -> None:
    text = PAGES["en"].read_text(encoding="utf-8")
    steps = re.findall(r"^## (\d)\. .*?(?=^## )", text, flags=re.MULTILINE | re.DOTALL)
    assert steps == [str(number) for number in range(1, 10)]
    for section in re.findall(r"^## \d\. (.*?)(?=^## )", text, flags=re.MULTILINE | re.DOTALL):
        (block,) = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
        assert block.count("\n") == 1


def test_what_goes_wrong_has_a_cause_and_something_to_do() -> None:
    for page in PAGES.values():
        rows = page.read_text(encoding="utf-8").rpartition("\n## ")[2].splitlines()
        table_rows = [row for row in rows if row.startswith("| ")][1:]
        assert len(table_rows) >= 20
        assert all(cell.strip() for row in table_rows for cell in row.strip("|").split("|"))
    files = re.findall(r"(?:docker|scripts)/[\w.-]+\w", PAGES["en"].read_text(encoding="utf-8"))
    assert files
    assert not [file for file in files if not (ROOT / file).exists()]


@pytest.mark.parametrize("language", PAGES)
def test_links_lead_somewhere(language: str) -> None:
    text = PAGES[language].read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
    for place in re.findall(r"\]\(#([^)]+)\)", text):
        assert f"## {place}" in text.lower()


@pytest.mark.soak
def test_the_steps_run_in_order_on_the_starter_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the starter model for Qwen3-8B, and three steps of training: on this machine."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    run = 0
    for command in blocks(PAGES["en"]):
        words = danlu_words(command.replace("Qwen3-8B", "starter"))
        if words is None or words[0] in ("pull", "serve"):
            continue
        said(*words, *(("--max_steps", "3") if words[0] == "train" else ()))
        run += 1
    assert run >= 7
    assert "merged" in said("use")


if __name__ == "__main__":
    for code, file in PAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ |= {"DANLU_HOME": f"{folder}/home", "DANLU_LANG": "en"}
            before, rest = file.read_text(encoding="utf-8").split(BEGIN)
            after = rest.split(END)[1]
            file.write_text(f"{before}{BEGIN}\n{table(code)}\n{END}{after}", encoding="utf-8")
            os.chdir("/")
