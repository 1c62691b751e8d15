"""The table of wrong commands in the troubleshooting pages: every row is tried, in both languages.

`python -m tests.docs.test_wrong_commands` writes the tables anew after a sentence has changed.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from danlu.cli.main import main
from tests.docs.test_troubleshooting import GOOD, PAGES

BEGIN, END = "<!-- wrong commands: begin -->\n", "<!-- wrong commands: end -->\n"
HEADS = {
    "en": ("what was wrong", "command", "what danlu says", "what to do"),
    "zh": ("错在哪里", "命令", "丹炉的提示", "怎么办"),
}
# What the pages show for the folder in which the commands are run.
SHOWN_FOLDER = "/home/me"


def rows() -> None:
    Path("rows.jsonl").write_text(GOOD, encoding="utf-8")


def files(**contents: str) -> Callable[[], None]:
    """Write files: folder__name__ending=text."""

    def write() -> None:
        for name, text in contents.items():
            path = Path(name.replace("___", ".").replace("__", "/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return write


def peft(weights: str, base: str = "someone/qwen3-0.6b-bnb-4bit") -> Callable[[], None]:
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}

    def write() -> None:
        Path("adapter").mkdir(exist_ok=True)
        text = json.dumps(config | {"base_model_name_or_path": base})
        Path("adapter/adapter_config.json").write_text(text, encoding="utf-8")
        Path("adapter", weights).write_bytes(b"")

    return write


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A wrong command. title: in English | in Chinese. prepare: writes the files that it needs."""

    title: str
    command: str
    prepare: Callable[[], None] = field(default=lambda: None)


WRONG = (
    Wrong(title="the model was not pulled | 模型没有下载", command="chat --model Qwen3-8B"),
    Wrong(title="the folder does not exist | 文件夹不存在", command="chat --model my-model"),
    Wrong(
        title="a GGUF file as the model | 把 GGUF 文件当作模型",
        command="chat --model qwen3.gguf",
        prepare=files(qwen3___gguf="GGUF"),
    ),
    Wrong(title="the adapter does not exist | 适配器不存在", command="chat --adapter my-run"),
    Wrong(
        title="nothing listens at the address | 该地址没有服务",
        command="chat --url http://127.0.0.1:9",
    ),
    Wrong(title="a mistyped option | 选项写错了", command="generate Hi --max_token 50"),
    Wrong(
        title="text where a number belongs | 该写数字的地方写了文字",
        command="generate Hi --temperature warm",
    ),
    Wrong(title="a number out of range | 数字超出范围", command="generate Hi --top_p 1.5"),
    Wrong(title="no data named | 没有写数据", command="train --output_dir my-run"),
    Wrong(
        title="the data do not exist | 数据不存在",
        command="train --dataset my.jsonl --output_dir my-run",
    ),
    Wrong(
        title="the output folder is in use | 输出文件夹里已有内容",
        command="train --dataset rows.jsonl --output_dir my-run",
        prepare=files(rows___jsonl=GOOD, **{"my-run__notes___txt": "mine"}),
    ),
    Wrong(
        title="nothing to evaluate on | 没有可评估的数据",
        command="train --dataset rows.jsonl --output_dir new-run --load_best_model_at_end true",
        prepare=rows,
    ),
    Wrong(
        title="nothing to resume | 没有可继续的训练",
        command="train --dataset rows.jsonl --output_dir none --resume_from_checkpoint true",
        prepare=rows,
    ),
    Wrong(title="no adapter named | 没有写适配器", command="merge --export_dir my-model"),
    Wrong(
        title="the export folder is not empty | 导出文件夹不是空的",
        command="merge --adapter adapter --model starter --export_dir full",
        prepare=files(full__model___txt="mine"),
    ),
    Wrong(
        title="the adapter is in an old format | 适配器是旧格式",
        command="merge --adapter adapter --export_dir my-model",
        prepare=peft("adapter_model.bin"),
    ),
    Wrong(
        title="an adapter as the model to export | 导出的是适配器",
        command="export adapter --export_dir my-gguf",
        prepare=peft("adapter_model.safetensors"),
    ),
    Wrong(
        title="an unknown number format | 不认识的数字格式",
        command="export starter --type q4_k_m --export_dir my-gguf",
    ),
    Wrong(title="a model that does not exist | 没有这个模型", command="pull Qwen3-9B"),
    Wrong(
        title="a source that does not exist | 没有这个来源", command="pull Qwen3-8B --source github"
    ),
    Wrong(title="a port that does not exist | 端口不存在", command="serve --port 99999"),
    Wrong(title="open to all without a key | 对外开放而没有密钥", command="serve --host 0.0.0.0"),
    Wrong(title="an unknown command | 不认识的命令", command="trian --dataset rows.jsonl"),
)


def tried(wrong: Wrong) -> tuple[str, str]:
    """Run a wrong command; return the first and the last of its three lines."""
    wrong.prepare()
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(shlex.split(wrong.command))
    lines = err.getvalue().splitlines()[-3:]
    assert code in (2, 3, 4, 5), (wrong.command, code, out.getvalue(), err.getvalue())
    assert len(lines) == 3, (wrong.command, lines)
    shown = {str(Path.cwd()): SHOWN_FOLDER, sys.executable: ".venv/bin/python"}
    for here, there in shown.items():
        lines = [text.replace(here, there) for text in lines]
    return lines[0], lines[2]


def table(language: str) -> str:
    """Write a page's table; every row is tried in a folder of its own."""
    lines = [HEADS[language], ("---",) * len(HEADS[language])]
    home = Path.cwd()
    for number, wrong in enumerate(WRONG):
        folder = home / str(number)
        folder.mkdir()
        os.chdir(folder)
        title = wrong.title.split(" | ")[list(PAGES).index(language)]
        says, do = tried(wrong)
        lines.append((title, f"`danlu {wrong.command}`", says, do))
    os.chdir(home)
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


@pytest.mark.parametrize("language", PAGES)
def test_the_table_shows_what_danlu_says(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DANLU_LANG", language)
    commands = {wrong.command.split()[0] for wrong in WRONG}
    assert commands >= {"chat", "generate", "train", "merge", "export", "pull", "serve"}
    page = PAGES[language].read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == f"\n{table(language)}\n"


if __name__ == "__main__":
    for code, file in PAGES.items():
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            os.environ |= {"DANLU_HOME": f"{place}/home", "DANLU_LANG": code}
            before, rest = file.read_text(encoding="utf-8").split(BEGIN)
            after = rest.split(END)[1]
            file.write_text(f"{before}{BEGIN}\n{table(code)}\n{END}{after}", encoding="utf-8")
            os.chdir("/")
