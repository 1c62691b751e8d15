"""Rows of .csv and .txt files.

.csv: a header, commas, quotation marks where a field holds commas, quotation marks (doubled) or
newlines (RFC 4180). .txt: question, tab, answer; one row a line. Knows how the text is divided;
must not know what the rows mean.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.data.findings import BadRow
from danlu.data.reading.encoding import MAX_ROW_BYTES, BrokenFile, read_lines, row_too_large
from danlu.language import _
from danlu.reasons import reason_of


def csv_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line on which a record begins, and its fields by name; all values are text.

    Raises BrokenFile where quotation marks do not close, OSError.
    """
    first_line = size = 0

    def limited_lines() -> Iterator[str]:
        nonlocal size
        for line in read_lines(file):
            size += len(line)
            if size > MAX_ROW_BYTES:
                raise row_too_large(first_line)
            yield line

    # The module's own limit, 128 KiB a field, is too low for long reasoning; ours counts the row.
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(limited_lines(), strict=True)
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
        if not record:
            continue
        if header is None:
            header = _header(record, first_line)
        elif len(record) == len(header):
            yield first_line, dict(zip(header, record, strict=True))
        else:
            yield (
                first_line,
                BadRow(
                    "wrong_length",
                    _("The row has {fields} fields, the first line names {columns}.").format(
                        fields=len(record), columns=len(header)
                    ),
                    _("Put fields with commas or newlines between quotation marks."),
                ),
            )


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


def _header(record: list[str], line: int) -> list[str]:
    names = [name.strip() for name in record]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BrokenFile(
            "broken_csv",
            line,
            _("Two columns are called {name}.").format(name=repr(twice[0])),
            _("Give every column its own name in the first line."),
        )
    return names
