"""The troubleshooting pages show what danlu really says about broken data files, in both languages.

`python -m tests.docs.test_troubleshooting` writes the sections anew after a sentence has changed.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from danlu.cli.main import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {"en": DOCS / "troubleshooting.md", "zh": DOCS / "troubleshooting.zh-CN.md"}
BEGIN, END = "<!-- broken files: begin -->\n", "<!-- broken files: end -->\n"
GOOD = '{"instruction": "Who are you?", "output": "I am Ember."}\n'


def line(**fields: object) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"


def row(question: str, answer: object) -> str:
    return line(instruction=question, output=answer)


def talk(*messages: tuple[str, str]) -> str:
    return line(messages=[{"role": role, "content": content} for role, content in messages])


# What is wrong (in English | in Chinese), the file's name (with further words of the command), its
# content.
BROKEN: tuple[tuple[str, str, str | bytes], ...] = (
    (
        "The file is in GBK | 文件是 GBK 编码",
        "rows.jsonl",
        row("你是谁？", "我是小雪。").encode("gbk"),
    ),
    ("The file is in UTF-16 | 文件是 UTF-16 编码", "rows.json", f"[{GOOD}]".encode("utf-16")),
    ("The file is not text | 文件不是文本", "rows.jsonl", b"PK\3\4\0\0\0\0 a zip file"),
    ("The file is empty | 文件是空的", "rows.jsonl", ""),
    ("The array ends too soon | 数组没有写完", "rows.json", f"[\n{GOOD}, {GOOD}"),
    ("A comma is missing in the array | 数组里缺少逗号", "rows.json", f"[\n{GOOD}{GOOD}]"),
    (
        "A line is not JSON | 某一行不是 JSON",
        "rows.jsonl",
        GOOD + "{'instruction': 'single quotes'}\n",
    ),
    (
        "A key stands twice | 同一个键出现两次",
        "rows.jsonl",
        GOOD + '{"instruction": "a", "output": "b", "output": "c"}\n',
    ),
    ("The columns have other names | 列名对不上", "rows.jsonl", line(ask="Who?", reply="Me.")),
    (
        "A column is missing in one row | 某一行缺少一列",
        "rows.jsonl",
        GOOD + line(instruction="Who?"),
    ),
    ("An answer is empty | 回答是空的", "rows.jsonl", GOOD + row("Who?", "")),
    ("A field is not text | 字段不是文本", "rows.jsonl", GOOD + row("1 + 1?", 2)),
    (
        "Half a character | 只有半个字符",
        "rows.jsonl",
        GOOD + '{"instruction": "Hi \\ud83d", "output": "Hi!"}\n',
    ),
    ("An unknown role | 不认识的角色", "rows.jsonl", talk(("user", "Hi"), ("asistant", "Hi!"))),
    (
        "Roles in a wrong order | 角色顺序不对",
        "rows.jsonl",
        talk(("user", "Hi"), ("user", "Hello?"), ("assistant", "Hi!")),
    ),
    (
        "The last message is a question | 最后一条消息是提问",
        "rows.jsonl",
        talk(("user", "Hi"), ("assistant", "Hi!"), ("user", "Bye")),
    ),
    (
        "Several thoughts in one answer | 一个回答里有多段思考",
        "rows.jsonl",
        row("Who?", "<think>a</think>Me.<think>b</think>"),
    ),
    (
        "A thought that is never closed | 思考没有结束标签",
        "rows.jsonl",
        row("Who?", "<think>\nMe, I think. Me."),
    ),
    (
        "A thought that is closed and not opened | 思考只有结束标签",
        "rows.jsonl",
        row("Which tag ends a thought?", "The tag </think> closes it."),
    ),
    (
        "A special token in the data | 数据里出现了特殊词元",
        "rows.jsonl",
        row("What is here?", "A <|object_ref_start|>cat."),
    ),
    (
        "A field that is not read | 没有读取的字段",
        "rows.jsonl",
        line(instruction="Who?", output="Me.", mood="kind"),
    ),
    (
        "An answer that is judged good or bad | 带有好坏评判的回答",
        "rows.jsonl",
        line(instruction="Name a fruit.", output="Go away.", label=False),
    ),
    (
        "A call under its old name | 旧写法的调用",
        "rows.jsonl",
        line(
            messages=[
                {"role": "user", "content": "Is it raining?"},
                {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}},
            ]
        ),
    ),
    (
        "Text of the chat template in the data | 数据里出现了对话模板的文字",
        "rows.jsonl",
        row("Who?", "Me.<|im_end|>"),
    ),
    ("Placeholders were left in | 占位符没有替换", "rows.jsonl", row("Who?", "I am {{name}}.")),
    (
        "A row is too long | 某一行太长",
        "rows.jsonl --cutoff_len 128",
        GOOD + row("Why? " * 200, "So."),
    ),
    (
        "A conversation of too many answers | 一个对话里的回答太多",
        "rows.jsonl --cutoff_len 1048576",
        talk(*[("user", "More?"), ("assistant", "Yes.")] * 1025),
    ),
    ("The same row twice | 同一行出现两次", "rows.jsonl", GOOD + GOOD),
)


def said_about(words: str, content: str | bytes) -> list[str]:
    """Run the doctor on one file; return the findings, or the error's three lines."""
    name, *options = words.split()
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["data", "check", name, *options, "--json"])
    Path(name).unlink()
    if not out.getvalue():
        return [*err.getvalue().splitlines(), f"exit code {code}"]
    record = json.loads(out.getvalue())
    lines = [finding["text"] for finding in record["all_findings"]]
    return [*(lines or record["refusal"].splitlines()), f"exit code {code}"]


def section(language: str) -> str:
    """Write a page's section; the files lie in the working folder for a moment."""
    parts = []
    for titles, words, content in BROKEN:
        title = titles.split(" | ")[list(PAGES).index(language)]
        shown = "\n".join(said_about(words, content))
        parts.append(f"### {title}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


@pytest.mark.parametrize("language", PAGES)
def test_the_page_shows_what_danlu_says(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_LANG", language)
    assert len(BROKEN) >= 20
    page = PAGES[language].read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == f"\n{section(language)}\n"
    # Sentences put together from parts must not bring two marks to one place.
    assert not re.search("[，。；：][，。；：（）]", page)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for code, file in PAGES.items():
            os.environ |= {"DANLU_HOME": folder, "DANLU_LANG": code}
            before, rest = file.read_text(encoding="utf-8").split(BEGIN)
            after = rest.split(END)[1]
            file.write_text(f"{before}{BEGIN}\n{section(code)}\n{END}{after}", encoding="utf-8")
