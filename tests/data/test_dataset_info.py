"""dataset_info.json: every key that danlu knows, and what it says about the others."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from danlu.data.datasets import DataSet, Row, find_datasets
from danlu.data.findings import Finding
from danlu.data.reading.rows import FATAL_KINDS
from danlu.data.settings import DataSettings
from danlu.errors import DataError, UsageError
from tests.helpers.data_files import json_lines, parquet_table


def alpaca(count: int, first: int = 0) -> list[dict[str, str]]:
    return [{"instruction": f"{i}", "output": "b"} for i in range(first, first + count)]


def listed(folder: Path, entries: Any, *, mark: bool = False) -> None:
    encoding = "utf-8-sig" if mark else "utf-8"
    text = json.dumps(entries, ensure_ascii=False)
    (folder / "dataset_info.json").write_text(text, encoding=encoding)


def found(
    names: str, folder: Path, max_samples: int | None = None, seed: int = 42
) -> list[DataSet]:
    return find_datasets(names, folder, max_samples=max_samples, seed=seed)


def questions(data: DataSet) -> list[int]:
    return [
        int(row.conversation.messages[0].content) for row in data.rows() if isinstance(row, Row)
    ]


def test_entries_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "文件夹").mkdir()
    parquet_table(tmp_path / "文件夹" / "2.parquet", alpaca(2, 2))
    parquet_table(tmp_path / "文件夹" / "1.parquet", alpaca(2, 0))
    json_lines(tmp_path / "talk.jsonl", [{"talk": [["x"]]}])
    json_lines(tmp_path / "other.jsonl", alpaca(1, 9))
    listed(
        tmp_path,
        {
            "我的": {"file_name": "文件夹"},
            "talk": {
                "file_name": "talk.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "talk"},
                "tags": {"user_tag": "user"},
                "file_sha1": "0",
            },
        },
        mark=True,
    )
    mine, talk, other = found("我的, talk,other.jsonl,", tmp_path)
    assert questions(mine) == [0, 1, 2, 3]
    assert mine.describe() == (
        f"我的: alpaca rows in 2 files in {tmp_path / '文件夹'}, "
        "told from the fields instruction, output."
    )
    assert (talk.format.columns["messages"], talk.format.tags["user_tag"]) == ("talk", "user")
    assert (talk.format.columns["tools"], talk.format.tags["assistant_tag"]) == ("tools", "gpt")
    assert str(tmp_path / "dataset_info.json") in talk.describe()
    assert questions(other) == [9]


def test_names_come_before_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    json_lines(tmp_path / "a.jsonl", alpaca(1, 1))
    json_lines(tmp_path / "data" / "a.jsonl", alpaca(1, 2))
    json_lines(tmp_path / "data" / "b.jsonl", alpaca(1, 3))
    monkeypatch.chdir(tmp_path)
    assert [questions(data) for data in found("a.jsonl,b.jsonl", Path("data"))] == [[1], [3]]
    listed(tmp_path / "data", {"a.jsonl": {"file_name": "b.jsonl"}})
    assert [questions(data) for data in found("a.jsonl", Path("data"))] == [[3]]


def test_max_samples_takes_the_first_rows_of_each(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", [*alpaca(2), {"instruction": "x"}, *alpaca(2, 7)])
    json_lines(tmp_path / "b.jsonl", alpaca(5))
    first, second = found("a.jsonl,b.jsonl", tmp_path, max_samples=3)
    assert (questions(first), questions(second)) == ([0, 1], [0, 1, 2])
    assert len(list(first.rows())) == 3


@pytest.mark.parametrize("num_samples", [3, 10, 25])
def test_num_samples(tmp_path: Path, num_samples: int) -> None:
    json_lines(tmp_path / "a.jsonl", alpaca(10))
    listed(tmp_path, {"a": {"file_name": "a.jsonl", "num_samples": num_samples}})
    (data,) = found("a", tmp_path)
    drawn = questions(data)
    assert len(drawn) == num_samples
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == min(num_samples, 10)
    assert questions(data) == drawn
    others = [questions(found("a", tmp_path, seed=seed)[0]) for seed in range(9)]
    assert all(other == drawn for other in others) == (num_samples == 10)
    (few,) = found("a", tmp_path, max_samples=2)
    assert len(questions(few)) == 2


def test_a_file_that_cannot_be_read_on_is_never_sampled_away(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"instruction": "1", "output": "b"}, {]', encoding="utf-8")
    listed(tmp_path, {"a": {"file_name": "a.json", "num_samples": 1}})
    for seed in range(5):
        *_rows, last = found("a", tmp_path, seed=seed)[0].rows()
        assert isinstance(last, Finding)
        assert last.kind in FATAL_KINDS


ENTRIES = [
    ({"file_name": "a.jsonl", "format": "sharegpt"}, "the key format is unknown", "formatting"),
    ({"file_name": "a.jsonl", "formatting": "share_gpt"}, "formatting share_gpt", "mean sharegpt"),
    ({"file_name": "a.jsonl", "columns": {"promt": "q"}}, "columns: promt", "mean prompt"),
    (
        {"file_name": "a.jsonl", "formatting": "openai", "tags": {"user": "q"}},
        "tags: user",
        "mean user_tag",
    ),
    ({"file_name": "a.jsonl", "tags": {"user_tag": "q"}}, "no messages", '"formatting": "share'),
    ({"file_name": "a.jsonl", "columns": {"messages": "m"}}, "no messages", '"formatting": "share'),
    ({"file_name": "a.jsonl", "columns": {"images": "i"}}, "name images", "remove images"),
    (
        {"file_name": "a.jsonl", "columns": {"prompt": "q", "response": "q"}},
        "the column q stands for two parts",
        "another column",
    ),
    ({"file_name": "a.jsonl", "columns": {"prompt": 3}}, "prompt is not a name", "a name"),
    ({"file_name": "a.jsonl", "columns": {"response": ""}}, "left for response", '"response": "'),
    ({"file_name": "a.jsonl", "columns": {"system": "output"}}, "left for response", "Give it one"),
    ({"file_name": "a.jsonl", "columns": {"prompt": "", "query": None}}, "left for prompt", "Give"),
    ({"file_name": "a.jsonl", "formatting": []}, "formatting [] is unknown", "alpaca"),
    (
        {"file_name": "a.jsonl", "formatting": "openai", "tags": {"user_tag": "assistant"}},
        "left for assistant_tag",
        "Give",
    ),
    ({"file_name": "a.jsonl", "columns": []}, "columns is not an object", "{...}"),
    ({"file_name": "a.jsonl", "ranking": True}, "ranking", "one answer"),
    ({"file_name": "a.jsonl", "num_samples": 0}, "num_samples", "from 1 to"),
    ({"file_name": "a.jsonl", "num_samples": 10**12}, "num_samples", "from 1 to"),
    ({"file_name": "a.jsonl", "num_samples": "9"}, "num_samples", "from 1 to"),
    ({"file_name": ["a.jsonl"]}, "file_name is not a name", "a name"),
    ({"script_url": "x.py"}, "script_url is not supported", "file_name"),
    ({"om_hub_url": "o/n", "file_name": "a.jsonl"}, "om_hub_url", "hf_hub_url"),
    ({"cloud_file_name": "s3://x"}, "cloud_file_name", "Download"),
    ({}, "no source", "hf_hub_url"),
    ("a.jsonl", "not an object", "file_name"),
]


@pytest.mark.parametrize(("entry", "why", "fix"), ENTRIES, ids=[case[1] for case in ENTRIES])
def test_an_entry_that_cannot_be_used(tmp_path: Path, entry: Any, why: str, fix: str) -> None:
    json_lines(tmp_path / "a.jsonl", alpaca(1))
    listed(tmp_path, {"mine": entry, "good": {"file_name": "a.jsonl"}})
    with pytest.raises(UsageError, match="mine cannot be read") as caught:
        found("mine", tmp_path)
    assert why in caught.value.why
    assert str(tmp_path / "dataset_info.json") in caught.value.why
    assert fix in caught.value.fix
    assert questions(found("good", tmp_path)[0]) == [0]


BY_COLUMNS = [
    # An empty name and null: there is no such column, as LLaMA-Factory writes it.
    (
        {"columns": {"prompt": "q", "query": "", "response": "a", "history": "", "system": None}},
        {"q": "Hi", "a": "Hello", "input": "not read"},
    ),
    ({"columns": {"prompt": "q", "response": "a", "images": ""}}, {"q": "Hi", "a": "Hello"}),
    (
        {"formatting": "", "hf_hub_url": "", "subset": None},
        {"instruction": "Hi", "output": "Hello"},
    ),
    # A column with a part is not read again under its default name.
    ({"columns": {"prompt": "input", "response": "a"}}, {"input": "Hi", "a": "Hello"}),
    ({"columns": {"prompt": "output", "response": "input"}}, {"output": "Hi", "input": "Hello"}),
    ({"columns": {"prompt": "system", "response": "a"}}, {"system": "Hi", "a": "Hello"}),
    ({"columns": {"query": "instruction"}}, {"instruction": "Hi", "output": "Hello"}),
    (
        {"formatting": "openai", "columns": {"messages": "system", "tools": ""}},
        {
            "system": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
            ],
            "tools": "not read",
        },
    ),
    (
        {
            "formatting": "sharegpt",
            "tags": {"user_tag": "gpt", "assistant_tag": "system", "function_tag": None},
        },
        {"conversations": [{"from": "gpt", "value": "Hi"}, {"from": "system", "value": "Hello"}]},
    ),
]


@pytest.mark.parametrize(("names", "row"), BY_COLUMNS)
def test_every_column_is_read_once(tmp_path: Path, names: Any, row: Any) -> None:
    json_lines(tmp_path / "a.jsonl", [row])
    listed(tmp_path, {"mine": {"file_name": "a.jsonl", **names}})
    (data,) = found("mine", tmp_path)
    (got,) = data.rows()
    assert isinstance(got, Row), str(got)
    said = [(message.role, message.content) for message in got.conversation.messages]
    assert said == [("user", "Hi"), ("assistant", "Hello")]


def test_what_is_not_there(tmp_path: Path) -> None:
    listed(tmp_path, {"mine": {"file_name": "no.jsonl"}})
    with pytest.raises(UsageError, match=r"no\.jsonl does not exist"):
        found("mine", tmp_path)
    with pytest.raises(UsageError, match="no data set mien") as caught:
        found("mien", tmp_path)
    assert "mine" in caught.value.fix
    json_lines(tmp_path / "alpaca_zh.jsonl", alpaca(1))
    with pytest.raises(UsageError, match="no data set alpaca_zh") as caught:
        found("alpaca_zh", tmp_path)
    assert "alpaca_zh.jsonl" in caught.value.fix
    for name in ("x" * 5000, "~nobody/a", "a\0b"):
        with pytest.raises(UsageError, match="no data set"):
            found(name, tmp_path)
    with pytest.raises(ValidationError, match="max_samples"):
        DataSettings(dataset="mine", max_samples=0)
    with pytest.raises(UsageError, match="No data set is named"):
        found(" , ", tmp_path)
    for place in ("ONLINE", "REMOTE:owner/name"):
        with pytest.raises(UsageError, match="not supported") as caught:
            found("owner/name", Path(place))
        assert "hf_hub_url" in caught.value.fix


@pytest.mark.parametrize("text", ["{", "[]", '{"a": "你"}'.encode("gbk")])
def test_a_broken_list_is_named(tmp_path: Path, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / "dataset_info.json").write_bytes(data)
    with pytest.raises(DataError, match=r"dataset_info\.json cannot be used"):
        found("a", tmp_path)


def test_rows_in_no_known_format(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", [{"text": "hello", "id": 1}])
    with pytest.raises(DataError, match="The format of ") as caught:
        found("a.jsonl", tmp_path)
    assert "text, id" in caught.value.why
    assert "instruction" in caught.value.fix


def test_rows_for_another_training(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(DataError, match="The format of ") as caught:
        found("a.jsonl", tmp_path)
    assert "preference training" in caught.value.why


@pytest.mark.parametrize(
    ("row", "why", "fix"),
    [
        (
            {"conversations": [{"human": "Hello", "assistant": "Hi there"}]},
            "no from; it has human, assistant",
            '{"from": "human", "value": "..."}',
        ),
        (
            {"messages": ["Hello", "Hi"]},
            "Message 1 is not an object",
            '{"role": "user", "content": "..."}',
        ),
    ],
)
def test_lists_that_hold_no_messages(tmp_path: Path, row: Any, why: str, fix: str) -> None:
    json_lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match="The format of ") as caught:
        found("a.jsonl", tmp_path)
    assert why in caught.value.why
    assert fix in caught.value.fix


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "count"), [("alpaca_zh_demo", 1000), ("alpaca_en_demo", 999), ("identity", 91)]
)
def test_real_data_sets_load_whole(name: str, count: int) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs the data sets in the folder shared beside the checkout")
    (data,) = found(f"{name}.json", SHARED)
    rows = list(data.rows())
    assert len(rows) == count
    assert all(isinstance(row, Row) for row in rows)


def test_rows_inside_of_one_object_are_taken_out_by_the_command_that_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": "问", "output": "答"}]
    (tmp_path / "all.json").write_text(json.dumps({"data": rows}), encoding="utf-8")
    with pytest.raises(DataError, match="unknown") as caught:
        found("all.json", tmp_path)
    command = caught.value.fix.partition("take them out: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert json.loads((tmp_path / "rows.json").read_text(encoding="utf-8")) == rows


def test_a_flood_of_columns_is_not_printed(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", [{f"column{n}": "x" for n in range(60_000)}])
    with pytest.raises(DataError) as caught:
        found("a.jsonl", tmp_path)
    assert "column19, ..." in caught.value.why
    assert len(str(caught.value)) < 1000
