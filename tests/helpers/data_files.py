"""Writes rows as every type of data file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

Rows = Sequence[Mapping[str, Any]]


def json_array(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8-sig")


def json_lines(path: Path, rows: Rows) -> None:
    path.write_text("\r\n".join(json.dumps(row) for row in rows), encoding="utf-8", newline="")


def table_of_text(path: Path, rows: Rows) -> None:
    """Write .csv; what is no text stands in its cell as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    name: value if isinstance(value, str) else json.dumps(value)
                    for name, value in row.items()
                }
            )


def parquet_table(path: Path, rows: Rows) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=2)


def arrow_file(path: Path, rows: Rows) -> None:
    table = pyarrow.Table.from_pylist(list(rows))
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as out:
        out.write_table(table, max_chunksize=2)


def arrow_stream(path: Path, rows: Rows) -> None:
    table = pyarrow.Table.from_pylist(list(rows))
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=2)


# name -> suffix and writer
FILE_TYPES: dict[str, tuple[str, Callable[[Path, Rows], None]]] = {
    "array in .json": (".json", json_array),
    "lines in .json": (".json", json_lines),
    "lines in .jsonl": (".jsonl", json_lines),
    "array in .jsonl": (".jsonl", json_array),
    ".csv": (".csv", table_of_text),
    ".parquet": (".parquet", parquet_table),
    ".arrow file": (".arrow", arrow_file),
    ".arrow stream": (".arrow", arrow_stream),
}
