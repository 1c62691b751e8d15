"""Rows of a data file as they stand there, one item a row, each with its place.

Knows file types; each kind of file has its reader. Must not know what the rows mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.findings import BadRow, Finding
from danlu.data.reading.csv_and_txt import csv_rows, txt_rows
from danlu.data.reading.encoding import MOST_ROW_CHARACTERS, BrokenFile, row_too_long
from danlu.data.reading.json_rows import json_rows
from danlu.data.reading.parquet_and_arrow import arrow_rows, parquet_rows
from danlu.errors import EnvironmentFault, UsageError
from danlu.language import _
from danlu.reasons import as_sentence, system_reason

# A reader yields line (or `line:column`, or row number) and content; of a broken row a BadRow.
Reader = Callable[[Path], Iterator[tuple[int | str, Any]]]
READERS: dict[str, Reader] = {
    ".json": json_rows,
    ".jsonl": json_rows,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
    ".txt": txt_rows,
}
# Files that describe data; `datasets` saves the first two beside its own.
_NOT_DATA = ("dataset_info.json", "state.json", "dataset_dict.json")
# After a finding of these kinds the rest of the file is unknown.
FATAL_KINDS = frozenset(
    {
        *("broken_json", "broken_csv", "damaged_table", "not_utf8", "binary_file"),
        *("row_too_large", "rows_too_long", "batch_too_large"),
    }
)


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """One row as it stands in the file.

    place: `file:line`, with `:column` where a row before begins on that line; for tables
    `file:row number`.
    """

    place: str
    content: Any


def read_rows(file: Path) -> Iterator[RawRow | Finding]:
    """Yield one item a row, streaming; a row that cannot be read is a Finding.

    A Finding of FATAL_KINDS is the last item. Raises EnvironmentFault where the file is refused.
    """
    try:
        with readable_data(file):
            for position, content in READERS[file.suffix.lower()](file):
                place = f"{file}:{position}"
                size = _num_characters(content)
                if isinstance(content, BadRow):
                    yield content.at(place)
                elif size > MOST_ROW_CHARACTERS:
                    yield row_too_long(size).at(place)
                else:
                    yield RawRow(place=place, content=content)
    except BrokenFile as problem:
        yield problem.at(f"{file}:{problem.line}")


def _num_characters(content: Any) -> int:
    """Count the characters of all texts in a row, at any depth."""
    size, waiting = 0, [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
    return size


@contextmanager
def readable_data(path: Path) -> Iterator[None]:
    """Turn an OSError raised inside into an EnvironmentFault."""
    try:
        yield
    except OSError as fault:
        raise EnvironmentFault(
            _("{file} cannot be read.").format(file=path),
            why=as_sentence(system_reason(fault)),
            fix=_("Check the file and its permissions."),
        ) from fault


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the data file, or all data files of a folder in the order of their names.

    Raises UsageError for a missing path, an unknown type, or a folder of several types.
    """
    if not path.exists():
        raise UsageError(
            _("The data file {file} does not exist.").format(file=path),
            why=_("There is no such file."),
            fix=_("Check --dataset and --dataset_dir."),
        )
    if not path.is_dir():
        if path.suffix.lower() not in READERS:
            raise UsageError(
                _("The data file {file} has an unknown type.").format(file=path),
                why=_("Known types are {types}.").format(types=", ".join(READERS)),
                fix=_("Convert it to .jsonl: one JSON object a line."),
            )
        return (path,)
    with readable_data(path):
        files = [file for file in sorted(path.iterdir()) if is_data_file(file)]
    if not files:
        raise UsageError(
            _("The folder {folder} holds no data files.").format(folder=path),
            why=_("Known types are {types}.").format(types=", ".join(READERS)),
            fix=_("Give the folder or the file that holds the rows."),
        )
    return of_one_type(files, path)


def is_data_file(file: Path) -> bool:
    """Tell whether a file found in a folder holds rows."""
    is_hidden = file.name.startswith(".") or file.name in _NOT_DATA
    return not is_hidden and file.suffix.lower() in READERS and file.is_file()


def of_one_type(files: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """Return the files if one reader reads them all, as LLaMA-Factory demands; else UsageError."""
    kinds = {READERS[file.suffix.lower()]: file.suffix for file in files}
    if len(kinds) > 1:
        raise UsageError(
            _("The folder {folder} holds data files of several types.").format(folder=folder),
            why=_("It has {types} files.").format(types=", ".join(kinds.values())),
            fix=_("Leave one type in it, or name the files, separated by commas."),
        )
    return tuple(files)
