"""Rows of .json and .jsonl files with the line each one starts at.

Every error names `file:line`. A byte order mark is accepted; text that is not UTF-8 is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import DataError, UsageError
from danlu.language import _

SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """One object of a data file as it stands there."""

    file: Path
    line: int
    content: Any

    @property
    def place(self) -> str:
        """Where the row stands, as `file:line`."""
        return f"{self.file}:{self.line}"


def read_rows(file: Path) -> list[RawRow]:
    """Read a .json file that holds an array, or a .jsonl file with one object a line.

    Raises UsageError for a missing file or another type, DataError with file:line for broken text.
    """
    if not file.is_file():
        raise UsageError(
            _("The data file {file} does not exist.").format(file=file),
            why=_("There is no such file."),
            fix=_("Check --dataset and --dataset_dir."),
        )
    if file.suffix not in SUFFIXES:
        raise UsageError(
            _("The data file {file} has an unknown type.").format(file=file),
            why=_("Known types are {types}.").format(types=", ".join(SUFFIXES)),
            fix=_("Convert it to .jsonl: one JSON object a line."),
        )
    text = _decode(file)
    rows = _lines(file, text) if file.suffix == ".jsonl" else _array(file, text)
    return list(rows)


def _decode(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data[: problem.start].count(b"\n") + 1
        raise _broken(file, line, _("The text is not UTF-8 (perhaps GBK).")) from problem


def _lines(file: Path, text: str) -> Iterator[RawRow]:
    # Split at newlines only: str.splitlines would also cut inside JSON strings, at U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield RawRow(file=file, line=number, content=json.loads(line))
            except (ValueError, RecursionError) as problem:
                raise _broken(file, number, _reason(problem)) from problem


def _array(file: Path, text: str) -> Iterator[RawRow]:
    """Read an array element by element, so that every row has its line."""
    decoder = json.JSONDecoder()
    position = _skip_space(text, 0)
    line, counted = 1, 0
    if text[position : position + 1] != "[":
        raise _broken(file, 1, _("The file does not hold an array: [ ... ]."))
    position = _skip_space(text, position + 1)
    while text[position : position + 1] != "]":
        line += text.count("\n", counted, position)
        counted = position
        try:
            content, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as problem:
            place = problem.lineno if isinstance(problem, json.JSONDecodeError) else line
            raise _broken(file, place, _reason(problem)) from problem
        yield RawRow(file=file, line=line, content=content)
        position = _skip_space(text, end)
        following = text[position : position + 1]
        if following == ",":
            position = _skip_space(text, position + 1)
        elif following != "]":
            place = line + text.count("\n", counted, position)
            raise _broken(file, place, _("A comma or the closing ] is missing."))
    rest = _skip_space(text, position + 1)
    if rest != len(text):
        raise _broken(file, text.count("\n", 0, rest) + 1, _("There is text after the closing ]."))


def _reason(problem: Exception) -> str:
    """Say what the JSON reader met; its own line number counts from the row."""
    if isinstance(problem, json.JSONDecodeError):
        return f"{problem.msg} (column {problem.colno})"
    return str(problem)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _broken(file: Path, line: int, why: str) -> DataError:
    return DataError(
        _("{place} cannot be read.").format(place=f"{file}:{line}"),
        why=why,
        fix=_("Correct that line; the file must be valid JSON in UTF-8."),
    )
