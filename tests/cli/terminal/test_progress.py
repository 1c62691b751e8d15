"""The live numbers of a run and the headings of the demo keep within a terminal's lines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from danlu.cli.demo import heading, print_next_steps
from danlu.cli.terminal.progress import lines_of
from danlu.language import columns

PARTS = [
    "轮次 15.41",
    "损失 0.3084",
    "留出损失 0.2867",
    "学习率 3.0e-04",
    "梯度 0.09",
    "786 token/秒",
    "698.1 MiB",
]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_number_is_parted_from_its_unit(width: int) -> None:
    lines = list(lines_of(PARTS, width))
    assert [part for line in lines for part in line.split("  ")] == PARTS
    assert all(columns(line) <= width for line in lines)


def test_headings_take_one_line_of_one_length() -> None:
    texts = (
        "The machine, and the built-in model (a small demonstration model)",
        "本机，以及内置模型（仅供演示的小模型）",
        "微调前后对比",
    )
    assert {columns(heading(1, text)) for text in texts} == {72}


@pytest.mark.parametrize("is_known", [True, False])
def test_the_demo_ends_with_commands_that_work_in_this_terminal(
    is_known: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`make demo` calls danlu by its path; the user's terminal does not know it yet."""
    (tmp_path / "danlu").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path if is_known else tmp_path / "nothing"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    print_next_steps()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    program = "danlu" if is_known else str(tmp_path / "danlu")
    assert lines[2:4] == [
        f"{program} pull Qwen3-8B",
        f"{program} train --model Qwen3-8B --dataset my.jsonl --output_dir my-run",
    ]
