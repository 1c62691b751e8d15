"""Data files good and bad: what is wrong is said with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.data.datasets import Row, find_datasets
from danlu.data.findings import Finding
from danlu.data.reading.rows import read_rows
from danlu.errors import DataError, UsageError

GOOD = {"instruction": "Who?", "input": "you", "output": "<think>\nhm\n</think>\n\nMe."}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def items(name: str | Path, folder: Path) -> list[Row | Finding]:
    (data,) = find_datasets(str(name), folder, max_samples=None, seed=42)
    return list(data.rows())


def findings(file: Path) -> list[Finding]:
    return [item for item in items(file, file.parent) if isinstance(item, Finding)]


def test_array_rows_know_their_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", json.dumps([GOOD, GOOD, GOOD], indent=2))
    assert [row.place for row in read_rows(file)] == [f"{file}:{line}" for line in (2, 7, 12)]


def test_rows_on_one_line_are_told_apart(tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {"output": ""}, GOOD | {"output": " "}]
    file = write(tmp_path / "a.json", json.dumps(rows))
    second, third = (found.place for found in findings(file))
    assert json.dumps(rows)[int(second.removeprefix(f"{file}:1:")) - 1 :].startswith("{")
    assert second != third


def test_alpaca_row(tmp_path: Path) -> None:
    row = GOOD | {"system": "Be kind.", "history": [["a", "b"]]}
    file = write(tmp_path / "a.jsonl", "\ufeff" + json.dumps(row) + "\r\n\r\n")
    (got,) = items(file, tmp_path)
    assert isinstance(got, Row)
    messages = got.conversation.messages
    assert [m.role for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[3].content == "Who?\nyou"
    assert (messages[4].reasoning, messages[4].content) == ("hm", "Me.")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[{"instruction": "a", "output": "b"},\n{"instruction": "a", }]', "a.json:2"),
        ('[{"instruction": "a"}\n{"b": 1}]', "a.json:2"),
        ('[{"instruction": "a", "output": "b"}', "a.json:1"),
        ('{"instruction": "a"}', "a.json:1"),
        ("[]\n[]", "a.json:2"),
        ("[1,\n" + "9" * 5000 + "]", "a.json:2"),
        ("[1,\n" + "[" * 100_000 + "]", "a.json:2"),
        ('[{"instruction": "\u4f60"}]'.encode("gbk"), "a.json:1"),
    ],
)
def test_broken_json_names_the_line(tmp_path: Path, text: str | bytes, place: str) -> None:
    file = write(tmp_path / "a.json", text)
    try:
        said = " ".join(finding.place for finding in findings(file))
    except DataError as problem:  # no row at all tells the format
        said = problem.why
    assert place in said


def test_bad_rows_are_all_named(tmp_path: Path) -> None:
    rows = [
        GOOD,
        GOOD | {"output": ""},
        {"instruction": 3, "output": "x"},
        [],
        GOOD | {"output": 1},
    ]
    file = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert [finding.place for finding in findings(file)] == [f"{file}:{n}" for n in (2, 3, 4, 5)]


def test_lone_surrogate_is_a_bad_row(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"instruction": "\\ud83d", "output": "b"}')
    (finding,) = findings(file)
    assert finding.kind == "lone_surrogate"


def test_no_rows(tmp_path: Path) -> None:
    assert items(write(tmp_path / "a.json", "[]"), tmp_path) == []


def test_named_data_set_with_partial_columns(tmp_path: Path) -> None:
    write(tmp_path / "d.json", json.dumps([{"q": "Hi", "output": "Hello"}]))
    info = {"mine": {"file_name": "d.json", "columns": {"prompt": "q"}}}
    write(tmp_path / "dataset_info.json", json.dumps(info))
    (row,) = items("mine", tmp_path)
    assert isinstance(row, Row)
    assert row.conversation.messages[0].content == "Hi"
    with pytest.raises(UsageError, match="no data set mien") as caught:
        items("mien", tmp_path)
    assert "mine" in caught.value.fix


def test_unknown_name_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data set"):
        items("something", tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        items(tmp_path / "no.jsonl", tmp_path)
