"""Rows of .csv and .txt files.

.csv: a header, commas, quotation marks where a field holds commas, quotation marks (doubled) or
newlines (RFC 4180); semicolons or tabs in the place of commas where the header has them, as Excel
writes them in many countries. .txt: question, tab, answer; one row a line. Knows how the text is
divided; must not know what the rows mean.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from danlu.data.findings import BadRow
from danlu.data.reading.encoding import MAX_ROW_BYTES, BrokenFile, read_lines, row_too_large
from danlu.language import _
from danlu.reasons import reason_of

# What may stand between fields; the first that divides the header does.
_SEPARATORS = ",\t;"


def csv_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line on which a record begins, and its fields by name; all values are text.

    A record that holds nothing is none: spreadsheets write such lines behind the last row.
    Raises BrokenFile where quotation marks do not close, OSError.
    """
    first_line = size = 0
    file_lines = read_lines(file)
    head = next(file_lines, "")

    def limited_lines() -> Iterator[str]:
        nonlocal size
        for line in chain([head], file_lines):
            size += len(line)
            if size > MAX_ROW_BYTES:
                raise row_too_large(first_line)
            yield line

    # The module's own limit, 128 KiB a field, is too low for long reasoning; ours counts the row.
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(limited_lines(), delimiter=_separator(head), strict=True)
    header: list[str] | None = None
    while True:
        first_line, size = reader.line_num + 1, 0
        try:
            record = next(reader, None)
        except csv.Error as problem:
            raise BrokenFile(
                "broken_csv",
                first_line,
                _("The table cannot be read on: {reason}.").format(reason=reason_of(problem)),
                _('Close every quotation mark, and write " inside a field as "".'),
            ) from None
        if record is None:
            return
        if not any(field.strip() for field in record):
            continue
        if header is None:
            header = _header(record, first_line)
        else:
            yield first_line, _fields(record, header)


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


def _separator(header: str) -> str:
    """Return what stands between the names in a header's line."""
    for separator in _SEPARATORS:
        with suppress(csv.Error):
            if len(next(csv.reader([header], delimiter=separator), [])) > 1:
                return separator
    return _SEPARATORS[0]


def _header(record: list[str], line: int) -> list[str]:
    """Return the names of the columns, up to the last; one without is called by its number."""
    names = [
        name.strip() or f"column {number}"
        for number, name in enumerate(record[: _num_filled(record)], start=1)
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BrokenFile(
            "broken_csv",
            line,
            _("Two columns are called {name}.").format(name=repr(twice[0])),
            _("Give every column its own name in the first line."),
        )
    return names


def _fields(record: list[str], header: list[str]) -> dict[str, str] | BadRow:
    """Return the fields of a record by name; empty ones behind the last column are none."""
    if _num_filled(record) <= len(header) <= len(record):
        return dict(zip(header, record, strict=False))
    return BadRow(
        "wrong_length",
        _("The row has {fields} fields, the first line names {columns}.").format(
            fields=len(record), columns=len(header)
        ),
        _("Put fields with commas or newlines between quotation marks."),
    )


def _num_filled(record: list[str]) -> int:
    """Count the fields up to the last that holds something."""
    return max((place for place, field in enumerate(record, start=1) if field.strip()), default=0)
