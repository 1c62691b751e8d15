"""docs/data.md: every example is read, and every message stands there as danlu gives it.

Its Chinese twin has the same examples (test_twins.py) and the messages in Chinese.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from danlu.data.dataset_info import INFO_FILE, read_info
from danlu.data.datasets import Row, find_datasets
from danlu.data.findings import Finding
from danlu.data.formats.format import DEFAULT_COLUMNS, DEFAULT_TAGS
from danlu.data.reading.rows import READERS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "data.md").read_text(encoding="utf-8")
CHINESE_PAGE = (DOCS / "data.zh-CN.md").read_text(encoding="utf-8")


def answered(keys: str) -> str:
    """Write a row of a question and an answer with these keys."""
    asked = '{"role": "user", "content": "?"}'
    return f'{{"messages": [{asked}, {{"role": "assistant", {keys}}}]}}'


# What is wrong, the file, and its content.
BROKEN: list[tuple[str, str, str | bytes]] = [
    ("a line that is not JSON", "a.jsonl", '{"instruction": "Hi", "output": "Hello"'),
    ("an array with a fault", "a.json", '[{"instruction": "Hi" "output": "Hello"}]'),
    ("an array without its end", "a.json", '[\n{"instruction": "Hi", "output": "Hello"}\n'),
    ("no array and no lines", "a.json", '{\n"data": []\n}'),
    ("a field that stands twice", "a.jsonl", '{"output": "a", "output": "b"}'),
    ("Chinese in GBK", "a.json", '[{"instruction": "你好", "output": "你好"}]'.encode("gbk")),
    ("text in UTF-16", "a.csv", "instruction,output".encode("utf-16")),
    ("bytes that are no text", "a.txt", b"a\tb\xff"),
    ("a file full of zeros", "a.jsonl", b"\0" * 9),
    ("a quotation mark that does not close", "a.csv", 'instruction,output\nHi,"Hello\n'),
    ("a comma too many", "a.csv", "instruction,output\nHi,Hello, you\n"),
    ("a line without a tab", "a.txt", "Hello\n"),
    ("a column that is missing", "a.csv", "instruction,answer\nHi,Hello\n"),
    ("an empty answer", "a.jsonl", '{"instruction": "Hi", "output": ""}'),
    ("an answer that is no text", "a.jsonl", '{"instruction": "1+1", "output": 2}'),
    ("several answers", "a.jsonl", '{"instruction": "Hi", "output": ["good", "bad"]}'),
    (
        "messages in the place of a text",
        "a.jsonl",
        '{"prompt": [{"role": "user"}], "completion": [{"role": "assistant"}]}',
    ),
    ("a row that is only a list", "a.json", '[[{"from": "human", "value": "Hello"}]]'),
    ("half a character", "a.jsonl", r'{"instruction": "\ud83d", "output": "Hi"}'),
    ("an unknown role", "a.jsonl", '{"messages": [{"role": "human", "content": "Hi"}]}'),
    (
        "a text under another format's name",
        "a.jsonl",
        '{"messages": [{"role": "user", "value": "Hi"}]}',
    ),
    ("a call under its old name", "a.jsonl", answered('"function_call": {"name": "f"}')),
    ("a thought that is no text", "a.jsonl", answered('"content": "!", "thinking": ["hm"]')),
    ("half a weight", "a.jsonl", answered('"content": "!", "weight": 0.5')),
    ("nothing but unlearned answers", "a.jsonl", answered('"content": "!", "weight": 0')),
    (
        "two questions in a row",
        "a.jsonl",
        '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "human", "value": "?"}]}',
    ),
    (
        "a question without an answer",
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "Hi"}]}',
    ),
    (
        "a call that is none",
        "a.jsonl",
        '{"conversations": [{"from": "human", "value": "?"}, {"from": "function_call"}]}',
    ),
    ("a row with images", "a.jsonl", '{"instruction": "?", "output": "!", "images": ["a.png"]}'),
    ("a row that compares answers", "a.jsonl", '{"instruction": "?", "chosen": "!"}'),
    (
        "a row that judges its answer",
        "a.jsonl",
        '{"instruction": "?", "output": "!", "label": false}',
    ),
]


def test_every_example_is_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) >= 6
    for name, text in blocks:
        (tmp_path / name).write_text(text, encoding="utf-8")
    names = {name for name, _text in blocks} - {INFO_FILE, "chats.jsonl", "fragen.csv"}
    for name in sorted(names | read_info(tmp_path / INFO_FILE).keys()):
        (data,) = find_datasets(name, tmp_path, max_samples=None, seed=42)
        rows = list(data.rows())
        assert rows
        for row in rows:
            assert isinstance(row, Row), str(row)


def test_every_type_and_name_is_mentioned() -> None:
    names = {n for table in (*DEFAULT_COLUMNS.values(), *DEFAULT_TAGS.values()) for n in table}
    for page in (PAGE, CHINESE_PAGE):
        assert not [name for name in (*READERS, *names) if f"`{name}`" not in page]


@pytest.mark.parametrize(("wrong", "name", "content"), BROKEN, ids=[case[0] for case in BROKEN])
def test_every_message_is_the_one_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, name: str, content: str | bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (data,) = find_datasets(name, tmp_path, max_samples=None, seed=42)
    for language, line, page in (
        ("en", f"- {wrong}: `{{}}`\n", PAGE),
        ("zh", "：`{}`\n", CHINESE_PAGE),
    ):
        monkeypatch.setenv("DANLU_LANG", language)
        *_rows, finding = data.rows()
        assert isinstance(finding, Finding)
        assert line.format(finding) in page
