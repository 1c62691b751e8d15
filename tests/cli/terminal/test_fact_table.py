"""Facts for people: aligned and in their language; programs keep names that never change."""

from __future__ import annotations

import json

import pytest

from danlu.cli.main import main
from danlu.cli.terminal.fact_table import print_facts
from danlu.language import columns

Screen = pytest.CaptureFixture[str]


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_LANG", "zh")


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("words", [["info"], ["info", "starter"]])
def test_facts_are_named_in_chinese_and_aligned(words: list[str], capsys: Screen) -> None:
    assert main([*words, "--json"]) == 0
    names = list(json.loads(capsys.readouterr().out))
    assert all(name.isascii() for name in names)
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names)
    # Names of programs are the same in every language.
    assert {line.split()[0] for line in lines if line[0].isascii()} <= {
        "CPU",
        "danlu",
        "torch",
        "python",
    }
    starts = {columns(line) - columns(line.split("  ", 1)[1].lstrip()) for line in lines}
    assert len(starts) == 1


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("state", "finished 70 steps", "状态  已完成，第 70 步"),
        ("state", "interrupted at step 12", "状态  已中断，第 12 步"),
        ("state", "failed 磁盘满了", "状态  失败，磁盘满了"),
        ("thinking", True, "思考  是"),
        ("template", None, "模板  -"),
        ("checkpoints", [20, 40], "检查点  20, 40"),
        ("peak_memory_bytes", 514367488.0, "内存峰值  490.5 MiB"),
        ("loss", 2.3469408078301224, "损失  2.3469"),
        ("held_out", {"num_rows": 6}, "留出  行数 6"),
    ],
)
def test_values_are_written_for_people(
    name: str, value: object, shown: str, capsys: Screen
) -> None:
    print_facts({name: value})
    assert capsys.readouterr().out == f"{shown}\n"
