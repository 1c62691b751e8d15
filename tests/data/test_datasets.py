"""Data files good and bad: what is wrong is said with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.data.datasets import load_rows
from danlu.data.rows import read_rows
from danlu.errors import DataError, UsageError

GOOD = {"instruction": "Who?", "input": "you", "output": "<think>\nhm\n</think>\n\nMe."}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_array_rows_know_their_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", json.dumps([GOOD, GOOD, GOOD], indent=2))
    assert [row.place for row in read_rows(file)] == [f"{file}:{line}" for line in (2, 7, 12)]


def test_alpaca_row(tmp_path: Path) -> None:
    row = GOOD | {"system": "Be kind.", "history": [["a", "b"]]}
    file = write(tmp_path / "a.jsonl", "\ufeff" + json.dumps(row) + "\r\n\r\n")
    (got,) = load_rows(str(file), tmp_path)
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
    write(tmp_path / "a.json", text)
    with pytest.raises(DataError, match=place) as caught:
        load_rows(str(tmp_path / "a.json"), tmp_path)
    assert caught.value.exit_code == 5


def test_bad_rows_are_all_named(tmp_path: Path) -> None:
    rows = [
        GOOD,
        GOOD | {"output": ""},
        {"instruction": 3, "output": "x"},
        [],
        GOOD | {"output": 1},
    ]
    file = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError) as caught:
        load_rows(str(file), tmp_path)
    assert "4 of 5" in caught.value.what
    for line in (2, 3, 4, 5):
        assert f"a.jsonl:{line}: " in caught.value.why


def test_lone_surrogate_is_a_bad_row(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"instruction": "\\ud83d", "output": "b"}')
    with pytest.raises(DataError, match="surrogate"):
        load_rows(str(file), tmp_path)


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        load_rows(str(write(tmp_path / "a.json", "[]")), tmp_path)


def test_named_data_set_with_partial_columns(tmp_path: Path) -> None:
    write(tmp_path / "d.json", json.dumps([{"q": "Hi", "output": "Hello"}]))
    info = {"mine": {"file_name": "d.json", "columns": {"prompt": "q"}}}
    write(tmp_path / "dataset_info.json", json.dumps(info))
    (row,) = load_rows("mine", tmp_path)
    assert row.conversation.messages[0].content == "Hi"
    with pytest.raises(UsageError, match="no data set mien") as caught:
        load_rows("mien", tmp_path)
    assert "mine" in caught.value.fix


def test_unknown_name_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data set"):
        load_rows("something", tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        load_rows(str(tmp_path / "no.jsonl"), tmp_path)
