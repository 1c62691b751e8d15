"""Data files that are broken, in another encoding, or huge: each fault is said with its place."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
import tracemalloc
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.findings import Finding
from danlu.data.reading import encoding, parquet_and_arrow
from danlu.data.reading.encoding import MOST_ROW_CHARACTERS
from danlu.data.reading.rows import FATAL_KINDS, READERS, RawRow, data_files, read_rows
from danlu.errors import DataError, EnvironmentFault, UsageError
from tests.helpers.data_files import FILE_TYPES, json_array, json_lines, table_of_text
from tests.helpers.timing import grows_at_most, processor_time

CHINESE = '{"instruction": "你好，请问你是谁？", "output": "我是一个助手。"}'


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def contents(items: Iterable[RawRow | Finding]) -> list[Any]:
    return [item.content if isinstance(item, RawRow) else item.kind for item in items]


def last(file: Path) -> Finding:
    *_before, item = read_rows(file)
    assert isinstance(item, Finding)
    return item


# name of the file, content, how many rows come before, line, kind, a piece of what and of the fix
BROKEN = [
    ("a.json", "[1, 2,\n{]", 2, 2, "broken_json", "Expecting property name", "valid JSON"),
    ("a.json", '[{"a": 1}\n\n{"b": 1}]', 1, 3, "broken_json", "(column 1)", "valid JSON"),
    ("a.json", '[{"a": "x', 0, 1, "broken_json", "Unterminated string", "valid JSON"),
    ("a.json", "[1\n", 1, 2, "broken_json", "closing ]", "valid JSON"),
    ("a.json", "[1] [2]", 1, 1, "broken_json", "after the closing ]", "valid JSON"),
    ("a.json", "[1,\n" + "9" * 5000 + "]", 1, 2, "broken_json", "digits", "valid JSON"),
    ("a.json", "[1,\n" + "[" * 100_000, 1, 2, "broken_json", "recursion", "valid JSON"),
    ("a.json", "<html>", 0, 1, "broken_json", "neither an array", "[ and ]"),
    ("a.json", '{\n"data": []\n}', 0, 1, "broken_json", "neither an array", "[ and ]"),
    ("a.jsonl", '{\n"a": 1\n}', 0, 1, "broken_json", "neither an array", "[ and ]"),
    ("a.json", f"[1,\n{CHINESE}]".encode("gbk"), 0, 2, "not_utf8", "GBK", "iconv -f GB18030"),
    ("a.jsonl", f"{{}}\n{CHINESE}".encode("gb18030"), 1, 2, "not_utf8", "GBK", "iconv -f GB18030"),
    ("a.csv", "问,答\n你好,好".encode("gbk"), 0, 1, "not_utf8", "GBK", "a.utf8.csv"),
    (
        "a.jsonl",
        '{"a": "d\xe9j\xe0 vu"}'.encode("latin-1"),
        0,
        1,
        "not_utf8",
        "0xE9",
        "-c -f UTF-8",
    ),
    ("a.json", CHINESE.encode("utf-16"), 0, 1, "not_utf8", "UTF-16", "iconv -f UTF-16 "),
    ("a.jsonl", CHINESE.encode("utf-16-le"), 0, 1, "not_utf8", "UTF-16LE", "iconv -f UTF-16LE"),
    ("a.jsonl", CHINESE.encode("utf-16-be"), 0, 1, "not_utf8", "UTF-16BE", "iconv -f UTF-16BE"),
    ("a.txt", CHINESE.encode("utf-32"), 0, 1, "not_utf8", "UTF-32", "iconv -f UTF-32"),
    ("a.jsonl", b"{}\n\0\0\0\0", 0, 2, "binary_file", "NUL", "Copy it again"),
    ("a.csv", 'q,a\nx,"y\nz', 0, 2, "broken_csv", "unexpected end", "quotation mark"),
    ("a.csv", 'q,a\nx,y\nx,"y"z', 1, 3, "broken_csv", "expected after", "quotation mark"),
    ("a.csv", "q,q\nx,y", 0, 1, "broken_csv", "'q'", "own name"),
    ("a.parquet", b"PAR1 and nothing more", 0, 1, "damaged_table", "magic", "Copy it again"),
    ("a.arrow", b"ARROW1 and nothing more", 0, 1, "damaged_table", "read on", "Copy it again"),
    ("a.arrow", b"no table", 0, 1, "damaged_table", "read on", "Copy it again"),
]


@pytest.mark.parametrize(
    ("name", "content", "before", "line", "kind", "what", "fix"),
    [pytest.param(*case, id=f"{case[0]}-{case[5]}") for case in BROKEN],
)
def test_a_file_that_cannot_be_read_on(
    tmp_path: Path,
    name: str,
    content: str | bytes,
    before: int,
    line: int,
    kind: str,
    what: str,
    fix: str,
) -> None:
    file = written(tmp_path / name, content)
    *rows, finding = read_rows(file)
    assert len(rows) == before
    assert isinstance(finding, Finding)
    assert (finding.place, finding.kind) == (f"{file}:{line}", kind)
    assert what in finding.what
    assert fix in finding.fix
    assert finding.kind in FATAL_KINDS


def test_the_command_in_the_fix_converts_the_file(tmp_path: Path) -> None:
    file = written(tmp_path / "my rows.jsonl", CHINESE.encode("gbk"))
    command = last(file).fix.partition(": ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert contents(read_rows(tmp_path / "my rows.utf8.jsonl")) == [json.loads(CHINESE)]


def test_a_broken_line_costs_only_itself(tmp_path: Path) -> None:
    lines = ['{"a": 1}', '{"a": 1', '{"a": 1, "a": 2}', "[" * 100_000, "[]", '{"a": "\u2028"}']
    file = written(tmp_path / "a.jsonl", "\n".join(lines))
    assert contents(read_rows(file)) == [
        *({"a": 1}, "broken_line", "key_twice", "broken_line", [], {"a": "\u2028"})
    ]
    second = list(read_rows(file))[1]
    assert (
        str(second)
        == f"{file}:2: The line is not JSON: Expecting ',' delimiter (column 8). Correct the line."
    )


def test_marks_ends_of_lines_and_nan(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.jsonl", '\ufeff{"a": "é"}\r\n\r\n  \n{"a": NaN, "b": [Infinity]}\r\n'
    )
    assert contents(read_rows(file)) == [{"a": "é"}, {"a": None, "b": [float("inf")]}]
    file = written(tmp_path / "b.json", '\ufeff\n [{"a": "é"},\r\n {"a": NaN}]\n')
    assert [str(item.place) for item in read_rows(file)] == [f"{file}:2", f"{file}:3"]


@pytest.mark.parametrize("file_type", [".parquet", ".arrow file", ".arrow stream"])
def test_a_table_of_several_functions_gives_each_its_own_arguments(
    tmp_path: Path, file_type: str
) -> None:
    def row(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        properties = {name: {"type": "number"} for name in arguments}
        answer = {"role": "assistant", "tool_calls": [call, call]}
        return {
            "messages": [{"role": "user", "content": "?"}, answer],
            "tools": [{"name": name, "parameters": {"properties": properties}}],
        }

    rows = [row("weather", {"city": "Oslo"}), row("add", {"a": 2, "b": [{"c": 1}, {"d": 2}]})]
    suffix, write = FILE_TYPES[file_type]
    file = tmp_path / f"rows{suffix}"
    write(file, rows)
    assert contents(read_rows(file)) == rows


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert list(read_rows(written(tmp_path / name, ""))) == []
    assert list(read_rows(written(tmp_path / name, "\ufeff\n\r\n "))) == []


def test_csv_records_know_their_lines(tmp_path: Path) -> None:
    long = "x" * 200_000
    text = f'q , a\r\n"1\r\n""one"", yes","{long}"\r\n\r\n2,\r\n3\r\n4,5,6\r\n'
    first, second, short, wide = read_rows(written(tmp_path / "a.csv", text))
    assert isinstance(first, RawRow)
    assert first.content == {"q": '1\r\n"one", yes', "a": long}
    assert first.place.endswith(":2")
    assert isinstance(second, RawRow)
    assert second.content == {"q": "2", "a": ""}
    assert second.place.endswith(":5")
    assert str(short).endswith(
        "a.csv:6: The row has 1 fields, the first line names 2. "
        "Put fields with commas or newlines between quotation marks."
    )
    assert isinstance(wide, Finding)
    assert wide.place.endswith(":7")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_as_excel_writes_it_in_many_countries(tmp_path: Path, separator: str) -> None:
    text = f'\ufeffq{separator}a\r\n"1; 2, 3"{separator}x, y\r\n'
    (row,) = read_rows(written(tmp_path / "a.csv", text))
    assert isinstance(row, RawRow)
    assert row.content == {"q": "1; 2, 3", "a": "x, y"}


def test_empty_cells_beside_and_below_a_spreadsheets_table_are_nothing(tmp_path: Path) -> None:
    # Excel writes the separators behind the last column for some rows and not for others.
    text = "q,a,,\nx,y,,\n,,,\nx,y\n , ,,\nx,y,,z\nx,,,\n,,,\n"
    *rows, wide, last = read_rows(written(tmp_path / "a.csv", text))
    assert [row.content for row in rows if isinstance(row, RawRow)] == [{"q": "x", "a": "y"}] * 2
    assert str(wide).endswith(
        "a.csv:6: The row has 4 fields, the first line names 2. "
        "Put fields with commas or newlines between quotation marks."
    )
    assert isinstance(last, RawRow)
    assert last.content == {"q": "x", "a": ""}


def test_columns_without_a_name_are_numbered(tmp_path: Path) -> None:
    # As pandas writes its index.
    (row,) = read_rows(written(tmp_path / "a.csv", ",q,,a\n0,x,,y\n"))
    assert isinstance(row, RawRow)
    assert row.content == {"column 1": "0", "q": "x", "column 3": "", "a": "y"}


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_files_damaged_anywhere_give_findings(tmp_path: Path, file_type: str) -> None:
    suffix, write = FILE_TYPES[file_type]
    file = tmp_path / f"rows{suffix}"
    write(file, [{"instruction": f"问 {i}", "output": "答", "n": [i]} for i in range(9)])
    whole = file.read_bytes()
    generator = random.Random(0)
    for _attempt in range(150):
        damaged = bytearray(
            whole[: generator.choice([len(whole), generator.randrange(len(whole))])]
        )
        for _byte in range(generator.randrange(3)):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        file.write_bytes(damaged)
        items = list(read_rows(file))
        kinds = [item.kind for item in items if isinstance(item, Finding)]
        assert all(kind not in FATAL_KINDS for kind in kinds[:-1])


@given(text=st.text(alphabet='",\n\r ab;', max_size=30))
def test_any_text_as_csv_is_read_or_reported(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    for item in read_rows(written(file, text)):
        assert item.place


def test_files_and_folders(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}]
    json_lines(tmp_path / "2.jsonl", rows)
    json_array(tmp_path / "1.JSON", rows)
    json_array(tmp_path / "state.json", rows)
    written(tmp_path / "README.md", "hello")
    (tmp_path / "more").mkdir()
    files = data_files(tmp_path)
    assert [file.name for file in files] == ["1.JSON", "2.jsonl"]
    assert [contents(read_rows(file)) for file in files] == [rows, rows]
    table_of_text(tmp_path / "3.csv", rows)
    with pytest.raises(UsageError, match=r"several types") as caught:
        data_files(tmp_path)
    assert ".csv" in caught.value.why
    with pytest.raises(UsageError, match="no data files"):
        data_files(tmp_path / "more")
    with pytest.raises(UsageError, match="unknown type") as caught:
        data_files(tmp_path / "README.md")
    assert ".parquet" in caught.value.why
    with pytest.raises(UsageError, match="does not exist"):
        data_files(tmp_path / "none.jsonl")


def test_a_file_that_the_system_refuses(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.symlink_to(file)
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        list(read_rows(file))


@pytest.mark.parametrize("suffix", sorted(READERS))
@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, suffix: str, kind: str) -> None:
    file = tmp_path / f"a{suffix}"
    if kind == "a folder":
        file.mkdir()
    elif kind == "a named pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=f"{kind}, not a file"):
        list(read_rows(file))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_name_that_stands_twice_among_many_is_found_in_linear_time(
    tmp_path: Path, suffix: str
) -> None:
    names = [f"k{number}" for number in range(100_000)] + ["k7"]
    line = json.dumps({"x": 1})[:-1] + "".join(f', "{name}": 1' for name in names) + "}"
    file = written(tmp_path / f"a{suffix}", line if suffix == ".jsonl" else ",".join(names))
    with processor_time() as spent:
        assert "k7" in last(file).what
    assert spent.seconds < 10


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    json_lines(tmp_path / "rows.jsonl", [{"a": 1}, {"a": 2}])
    (tmp_path / "link.jsonl").symlink_to("rows.jsonl")
    assert len(list(read_rows(tmp_path / "link.jsonl"))) == 2


@pytest.mark.parametrize("beginning", ["", "[", "[1, ", '{"a": 1}\n', '[{"a": "'])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".txt"])
def test_100_gb_of_nothing_is_refused_at_once(tmp_path: Path, beginning: str, suffix: str) -> None:
    file = tmp_path / f"sparse{suffix}"
    with file.open("wb") as out:
        out.write(beginning.encode() + b" " * 2000)
        out.truncate(100 << 30)
    with processor_time() as spent:
        assert last(file).kind in FATAL_KINDS
    assert spent.seconds < 5


def test_a_row_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "danlu.data.reading.encoding",
        "danlu.data.reading.json_rows",
        "danlu.data.reading.csv_and_txt",
    ):
        monkeypatch.setattr(f"{name}.MAX_ROW_BYTES", 1 << 20)
    monkeypatch.setattr(encoding, "PIECE_BYTES", 1 << 16)
    for name, text in (
        ("a.json", '[1,\n{"a": "' + "x" * (3 << 20)),
        ("a.jsonl", '{}\n{"a": "' + "x" * (3 << 20)),
        ("a.csv", 'q,a\n"' + "x,y\n" * (1 << 19)),
    ):
        finding = last(written(tmp_path / name, text))
        assert finding.kind == "row_too_large"
        assert finding.place.endswith(":2")


@pytest.mark.parametrize("file_type", [name for name in FILE_TYPES if "arrow" not in name])
def test_rows_are_not_held_in_memory(tmp_path: Path, file_type: str) -> None:
    suffix, write = FILE_TYPES[file_type]
    file = tmp_path / f"rows{suffix}"
    write(file, [{"instruction": f"{i}", "output": "x" * 10_000} for i in range(4_000)])
    pool = pyarrow.default_memory_pool().bytes_allocated()
    tracemalloc.start()
    count = sum(isinstance(item, RawRow) for item in read_rows(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4_000
    assert peak + pyarrow.default_memory_pool().bytes_allocated() - pool < 16 << 20  # of 40 MB


def test_a_small_table_that_stands_for_gigabytes_is_read_in_little_memory(tmp_path: Path) -> None:
    one = pyarrow.array(["x" * (30 << 20)])
    shared = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 200, pyarrow.int32()), one)
    table = pyarrow.table({"instruction": shared, "output": pyarrow.array(["y"] * 200)})
    file = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(table, file, compression="zstd")
    assert file.stat().st_size < 1 << 20
    tracemalloc.start()
    pool = pyarrow.default_memory_pool()
    items = list(read_rows(file))
    assert tracemalloc.get_traced_memory()[1] + pool.max_memory() < 500 << 20
    tracemalloc.stop()
    assert contents(items) == ["row_too_long"] * 200


def nested_tables() -> dict[str, pyarrow.Table]:
    """Tables of few bytes that stand for 40 GB and more: as lists of messages, or as structs."""
    text = pyarrow.array(["x" * 1_000_000])
    count = 40_000
    shared = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), text)
    roles = pyarrow.array(["user", "assistant"] * (count // 2))
    messages = pyarrow.StructArray.from_arrays([roles, shared], names=["role", "content"])
    places = pyarrow.array(range(0, count + 1, 20), pyarrow.int32())
    whole = pyarrow.array([0, count], pyarrow.int32())
    nothing = pyarrow.array([0, 1 << 30], pyarrow.int32())
    return {
        "rows": pyarrow.table({"messages": pyarrow.ListArray.from_arrays(places, messages)}),
        "row": pyarrow.table({"messages": pyarrow.ListArray.from_arrays(whole, messages)}),
        "structs": pyarrow.table({"messages": messages}),
        "nothing": pyarrow.table(
            {"messages": pyarrow.ListArray.from_arrays(nothing, pyarrow.nulls(1 << 30))}
        ),
        "runs": pyarrow.table(
            {
                "messages": pyarrow.RunEndEncodedArray.from_arrays(
                    pyarrow.array([count], pyarrow.int32()), text
                )
            }
        ),
    }


@pytest.mark.parametrize(
    ("name", "suffix", "kind"),
    [
        *(("rows", suffix, "row_too_long") for suffix in (".parquet", ".arrow")),
        *(("row", suffix, "row_too_long") for suffix in (".parquet", ".arrow")),
        ("nothing", ".arrow", "row_too_long"),
        *(("structs", suffix, None) for suffix in (".parquet", ".arrow")),
        ("runs", ".arrow", None),
    ],
)
def test_nested_values_are_bounded_before_they_are_made(
    tmp_path: Path, name: str, suffix: str, kind: str | None
) -> None:
    """Rows that fit are read all the same: kind None."""
    table, file = nested_tables()[name], tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, file, compression="zstd")
    else:
        with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_file(out, table.schema) as to:
            to.write_table(table)
    del table
    pool = pyarrow.default_memory_pool().bytes_allocated()
    started = time.process_time()
    tracemalloc.start()
    count = 0
    for item in islice(read_rows(file), 10):
        count += 1
        assert (item.kind if isinstance(item, Finding) else None) == kind
    assert count == (1 if name in ("row", "nothing") else 10)
    assert tracemalloc.get_traced_memory()[1] < 200 << 20
    assert pyarrow.default_memory_pool().bytes_allocated() - pool < 100 << 20
    tracemalloc.stop()
    assert time.process_time() - started < 20


def test_long_batches_of_messages_are_read_in_linear_time(tmp_path: Path) -> None:
    """All rows in one batch, as some writers save them: it was looked through for each 256 rows."""
    row = [{"role": "user", "content": "q" * 50}, {"role": "assistant", "content": "a" * 50}]

    def seconds(count: int) -> float:
        table, file = pyarrow.table({"messages": [row] * count}), tmp_path / "a.arrow"
        with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_file(out, table.schema) as to:
            to.write_table(table)
        with processor_time() as spent:
            assert sum(1 for _item in read_rows(file)) == count
        return spent.seconds

    # 8 times the rows: linear is 8 times as long, each batch for each 256 rows was 64 times.
    assert grows_at_most(seconds, 5_000, 40_000, factor=24)


def test_groups_of_rows_that_are_too_long_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is decoded whole: 150 cells of 10 MB in a file of 400 kB took 7 GB."""
    monkeypatch.setattr(parquet_and_arrow, "_MOST_GROUP_BYTES", 4 << 20)
    file, size = tmp_path / "a.parquet", MOST_ROW_CHARACTERS + 1
    short = [{"instruction": "x", "output": "y"}] * 2
    long = [{"instruction": f"{n}" + "x" * size, "output": "y"} for n in range(5)]
    schema = pyarrow.schema({"instruction": pyarrow.string(), "output": pyarrow.string()})
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for rows in (short, long):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    *read, finding = read_rows(file)
    assert len(read) == 2
    assert isinstance(finding, Finding)
    assert (finding.kind, finding.place) == ("rows_too_long", f"{file}:3")


@pytest.mark.parametrize("shared", [True, False])
def test_texts_are_the_same_whether_kept_as_shared_values_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr(parquet_and_arrow, "_MOST_SHARED_BYTES", 1 << 30 if shared else 0)
    rows = [{"messages": [{"role": "user", "content": f"q{n % 7}"}]} for n in range(600)]
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=250)
    assert [item.content for item in read_rows(file)] == rows


def test_a_time_outside_of_pythons_is_a_finding(tmp_path: Path) -> None:
    moment = pyarrow.array([2**62], pyarrow.timestamp("us"))
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"instruction": moment}), file)
    assert last(file).kind == "damaged_table"


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_a_row_that_no_context_holds_costs_only_itself(tmp_path: Path, file_type: str) -> None:
    suffix, write = FILE_TYPES[file_type]
    file = tmp_path / f"a{suffix}"
    texts = ["before", "x" * (MOST_ROW_CHARACTERS + 1), "after"]
    write(file, [{"instruction": text, "output": "y"} for text in texts])
    first, long, third = read_rows(file)
    assert contents([long]) == ["row_too_long"]
    assert [row.content["instruction"] for row in (first, third)] == ["before", "after"]


@pytest.mark.parametrize(("character", "name"), [("\ufeff", "byte order mark"), ("\u200b", "zero")])
def test_a_character_that_cannot_be_seen_is_named(
    tmp_path: Path, character: str, name: str
) -> None:
    # As after `cat a.jsonl b.jsonl`, where b begins with the mark.
    text = f'{{"instruction": "a"}}\n{character}{{"instruction": "c"}}\n'
    _first, finding = read_rows(written(tmp_path / "a.jsonl", text))
    assert isinstance(finding, Finding)
    assert finding.place.endswith(":2")
    assert f"U+{ord(character):04X}" in finding.what
    assert name in finding.what
