"""Rows of .csv and .txt files.

.csv: a header, commas, quotation marks where a field holds commas, quotation marks (doubled) or
newlines (RFC 4180). .txt: question, tab, answer; one row a line. Knows how the text is divided;
must not know what the rows mean.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.data.findings import BadRow
from danlu.data.reading.encoding import MAX_ROW_BYTES, BrokenFile, read_lines, row_too_large
from danlu.language import _


def csv_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line on which a record begins, and its fields by name; all values are text.

    Raises BrokenFile where quotation marks do not close, OSError.
    """
    lines = _CountedLines(read_lines(file))
    # The module's own limit, 128 KiB a field, is too low for long reasoning; ours counts the row.
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        first_line = reader.line_num + 1
        lines.row_begins(first_line)
        try:
            record = next(reader, None)
        except csv.Error as problem:
            raise BrokenFile(
                "broken_csv",
                first_line,
                _("The table cannot be read on: {reason}.").format(reason=problem),
                _('Close every quotation mark, and write " inside a field as "".'),
            ) from None
        if record is None:
            return
        if not record:
            continue
        if header is None:
            header = _header(record, first_line)
        elif len(record) == len(header):
            yield first_line, dict(zip(header, record, strict=True))
        else:
            yield first_line, _wrong_length(record, header)


def txt_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield line and row, as instruction and output. Raises BrokenFile, OSError."""
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        question, tab, answer = line.rstrip("\r\n").partition("\t")
        if tab:
            yield number, {"instruction": question, "output": answer}
        else:
            yield (
                number,
                BadRow(
                    "no_tab",
                    _("The line has no tab; plain text is for pre-training."),
                    _("Write question, tab, answer; or use .jsonl."),
                ),
            )


class _CountedLines:
    """The lines of a table; raises BrokenFile where one row exceeds MAX_ROW_BYTES."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._first_line = 1
        self._size = 0

    def row_begins(self, first_line: int) -> None:
        """Count the characters of the next row from 0."""
        self._first_line, self._size = first_line, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._size += len(line)
        if self._size > MAX_ROW_BYTES:
            raise row_too_large(self._first_line)
        return line


def _header(record: list[str], line: int) -> list[str]:
    names = [name.strip() for name in record]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BrokenFile(
            "broken_csv",
            line,
            _("Two columns are called {name}.").format(name=repr(twice[0])),
            _("Give every column its own name in the first line."),
        )
    return names


def _wrong_length(record: list[str], header: list[str]) -> BadRow:
    return BadRow(
        "wrong_length",
        _("The row has {fields} fields, the first line names {columns}.").format(
            fields=len(record), columns=len(header)
        ),
        _("Put fields with commas or newlines between quotation marks."),
    )
