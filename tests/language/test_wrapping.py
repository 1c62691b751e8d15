"""Lines of a terminal: broken between words, and never inside of a command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from danlu.language import columns, wrapped
from danlu.program import as_typed
from danlu.runs.manifest import BaseRecord, RunManifest
from danlu.runs.resuming import resume_command

COMMANDS = [
    "danlu train --dataset rows.jsonl --output_dir '/data/我的 模型/第 一 次' --report false",
    "danlu train '训练.yaml' --resume_from_checkpoint true",
    "danlu merge --adapter '/data/it'\"'\"'s/学过的' --export_dir '/data/合并 后'",
    "'/home/me/我的 工具/.venv/bin/danlu' chat --adapter '/data/小炉'",
    "cd '/data/我的 目录' && danlu train '训练.yaml' --resume_from_checkpoint true",
    "danlu export 'a b' --format gguf --export_dir out/gguf",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("before", ["Go on with it: ", "已停止；已下载的部分保留。继续：", ""])
@pytest.mark.parametrize("behind", ["", "。然后再看一看结果是不是想要的样子，不是就再来一次。"])
def test_a_command_with_names_in_chinese_stays_whole(
    command: str, before: str, behind: str
) -> None:
    lines = wrapped(f"{before}{command}{behind}", 40)
    assert any(command in line for line in lines), lines
    assert all(columns(line) <= 40 for line in lines if "danlu" not in line)


def test_no_line_begins_with_punctuation_that_stands_before_a_command() -> None:
    program = "/home/me/danlu/.venv/bin/danlu chat --adapter my-run"
    lines = wrapped(f"已停止；最后完成的一步已保存。要继续，请运行：{program}", 46)
    assert lines == ["已停止；最后完成的一步已保存。要继续，请运行：", program]


def test_a_run_goes_on_where_its_names_mean_what_they_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunManifest(
        state="interrupted",
        base=BaseRecord(name="starter", path="/starter", fingerprint="0"),
        template="qwen3",
        enable_thinking=None,
        settings={"model_name_or_path": "starter", "dataset": "mine", "save_steps": 5.0},
        origins={"dataset": "command line", "save_steps": "command line"},
        cwd=os.getcwd(),
    )
    assert resume_command(tmp_path, run).startswith("danlu train ")
    assert " --save_steps 5 " in resume_command(tmp_path, run)
    monkeypatch.chdir(tmp_path)
    command = as_typed(resume_command(tmp_path / "run", run))
    assert command.startswith(f"cd {run.cwd} && ")
    program = command.partition(" && ")[2].partition(" train")[0]
    assert program.startswith(("/", "danlu"))
