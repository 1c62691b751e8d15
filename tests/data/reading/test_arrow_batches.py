"""Batches of Arrow files and streams: bounded before they are decoded, given back when read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from danlu.data.findings import Finding
from danlu.data.reading import arrow_messages, parquet_and_arrow
from danlu.data.reading.encoding import MOST_ROW_CHARACTERS
from danlu.data.reading.rows import FATAL_KINDS, read_rows

WRITERS = {"file": pyarrow.ipc.new_file, "stream": pyarrow.ipc.new_stream}
CODECS = (None, "lz4", "zstd")
LONG = MOST_ROW_CHARACTERS + 1
every_way = pytest.mark.parametrize(
    ("form", "codec"), [(form, codec) for form in WRITERS for codec in CODECS]
)


def write(file: Path, tables: list[pyarrow.Table], form: str, codec: str | None) -> None:
    """Write each table as one batch."""
    options = pyarrow.ipc.IpcWriteOptions(compression=codec)
    with (
        pyarrow.OSFile(str(file), "wb") as out,
        WRITERS[form](out, tables[0].schema, options=options) as to,
    ):
        for table in tables:
            to.write_batch(table.combine_chunks().to_batches()[0])


@pytest.fixture
def allocated() -> Iterator[Any]:
    """How many bytes pyarrow has allocated at most during the test."""
    before = pyarrow.default_memory_pool()
    pool = pyarrow.proxy_memory_pool(before)
    pyarrow.set_memory_pool(pool)
    yield pool.max_memory
    pyarrow.set_memory_pool(before)


@every_way
def test_batches_of_rows_that_are_too_long_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocated: Any, form: str, codec: str | None
) -> None:
    """150 cells of 10 MB in a file of 50 kB took 1.5 GB."""
    monkeypatch.setattr(parquet_and_arrow, "_MOST_GROUP_BYTES", 4 << 20)
    file = tmp_path / "a.arrow"
    short = pyarrow.table({"instruction": ["x"] * 2, "output": ["y"] * 2})
    long = pyarrow.table({"instruction": ["x" * LONG] * 5, "output": ["y"] * 5})
    write(file, [short, long], form, codec)
    del long
    before = allocated()
    *read, finding = read_rows(file)
    assert allocated() - before < 1 << 20
    assert len(read) == 2
    assert isinstance(finding, Finding)
    assert (finding.kind, finding.place) == ("rows_too_long", f"{file}:3")
    assert finding.kind in FATAL_KINDS


@every_way
def test_a_compressed_batch_is_bounded_whatever_its_rows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, codec: str | None
) -> None:
    """What is not compressed stays in the file, and is read a piece at a time."""
    monkeypatch.setattr(parquet_and_arrow, "_MOST_BATCH_BYTES", 1 << 20)
    file = tmp_path / "a.arrow"
    tables = [pyarrow.table({"output": ["x" * 1000] * count}) for count in (10, 2000)]
    write(file, tables, form, codec)
    *read, last = read_rows(file)
    if codec is None:
        assert len([*read, last]) == 2010
        return
    assert len(read) == 10
    assert isinstance(last, Finding)
    assert (last.kind, last.place) == ("batch_too_large", f"{file}:11")
    assert last.kind in FATAL_KINDS


@pytest.mark.parametrize("form", WRITERS)
def test_a_dictionary_counts_with_the_batches_that_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(parquet_and_arrow, "_MOST_BATCH_BYTES", 1 << 20)
    file = tmp_path / "a.arrow"
    values = pyarrow.array([f"{number}" + "x" * 1000 for number in range(2000)])
    places = pyarrow.array([0, 1], pyarrow.int32())
    table = pyarrow.table({"output": pyarrow.DictionaryArray.from_arrays(places, values)})
    write(file, [table], form, "zstd")
    [finding] = read_rows(file)
    assert isinstance(finding, Finding)
    assert finding.kind == "batch_too_large"


@pytest.mark.parametrize("codec", CODECS)
def test_the_size_is_that_of_the_decoded_batch(tmp_path: Path, codec: str | None) -> None:
    rows = [[{"role": "user", "content": f"{number}" * 50}] for number in range(300)]
    tables = [pyarrow.table({"messages": rows[:100]}), pyarrow.table({"messages": rows[100:]})]
    write(tmp_path / "a.arrow", tables, "file", codec)
    content = pyarrow.py_buffer((tmp_path / "a.arrow").read_bytes())
    sizes = list(arrow_messages.batch_sizes(content))
    assert [size.num_rows for size in sizes] == [100, 200]
    for size, table in zip(sizes, tables, strict=True):
        # Buffers are filled up to 8 bytes, or to 64.
        assert table.nbytes <= size.num_bytes <= table.nbytes + 64 * 8
        assert (size.new_bytes > table.nbytes // 2) == (codec is not None)


def test_what_was_read_of_a_file_is_given_back(tmp_path: Path) -> None:
    def mapped_mb() -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("RssFile:")[2].split()[0]) >> 10

    file = tmp_path / "a.arrow"
    table = pyarrow.table({"output": ["x" * 1_000_000] * 4})
    write(file, [table] * 40, "file", None)
    before, most = mapped_mb(), 0
    for number, _row in enumerate(read_rows(file)):
        most = max(most, mapped_mb() - before) if number % 4 == 0 else most
    assert number == 159
    assert most < 40  # of 160


@every_way
def test_a_damaged_file_is_a_finding(tmp_path: Path, form: str, codec: str | None) -> None:
    """Whatever byte is another one: rows, or a finding, and never an error of ours."""
    file, draw = tmp_path / "a.arrow", random.Random(3)
    texts = pyarrow.array(["a b c " * 9] * 20)
    table = pyarrow.table({"input": texts.dictionary_encode(), "output": texts})
    write(file, [table, table], form, codec)
    good = file.read_bytes()
    assert len(list(read_rows(file))) == 40
    kinds = set()
    for _time in range(60):
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] = draw.choice((0, 1, 127, 128, 255))
        file.write_bytes(bad[: draw.choice((len(bad), draw.randrange(len(bad))))])
        kinds |= {item.kind for item in read_rows(file) if isinstance(item, Finding)}
    assert "damaged_table" in kinds
    assert kinds <= FATAL_KINDS
