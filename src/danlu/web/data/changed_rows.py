"""Rows that were edited or excluded: a change beside the file, which itself stays as it is.

Rows are counted from 1, in the order in which the file is read. A change holds a digest of the row
it was made for, so that in a file that has changed since it meets no other row.

The derived file holds one row a line, so that the number of a row is its line; the line of an
excluded row is empty. A row that cannot be read stands there as what is wrong with it, which is no
JSON: nobody trains without it unknowingly.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.findings import Finding
from danlu.data.reading.rows import FATAL_KINDS, read_rows
from danlu.errors import UsageError
from danlu.files.atomic import atomic_write, make_folder
from danlu.files.os_errors import readable
from danlu.language import _
from danlu.web.data.data_folders import KnownSet
from danlu.web.database import Database

DERIVED_FILE, _KEY_FILE = "derived.jsonl", "derived.key"
_writing = threading.Lock()
_EXACT = 2**53


@dataclass(frozen=True, kw_only=True)
class RowChange:
    """What was done to a row. content: what stands in its place; None: what the file says."""

    number: int
    digest: str
    is_excluded: bool
    content: Any = None


@dataclass(frozen=True, kw_only=True)
class NumberedRow:
    """A row of a file with its number. found: why it cannot be read, None where it can.

    original: what the file says; content: the same, or what an edit has put in its place.
    """

    number: int
    place: str
    original: Any = None
    found: Finding | None = None
    change: RowChange | None = None

    @property
    def is_excluded(self) -> bool:
        """Whether it is left out."""
        return self.change is not None and self.change.is_excluded

    @property
    def is_edited(self) -> bool:
        """Whether something else stands in its place."""
        return self.change is not None and self.change.content is not None

    @property
    def content(self) -> Any:
        """What is learned; None where the row cannot be read."""
        is_edited = self.change is not None and self.change.content is not None
        return self.change.content if self.change and is_edited else self.original

    @property
    def problem(self) -> Finding | None:
        """Why there is no content: an edit heals what cannot be read."""
        return None if self.is_edited else self.found


class ChangedRows:
    """The changes of all data sets, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return how many rows are excluded and edited, by data set."""
        rows = self._database.all(
            "SELECT dataset, SUM(excluded) AS excluded, "
            "SUM(content IS NOT NULL AND NOT excluded) AS edited "
            "FROM changed_rows GROUP BY dataset"
        )
        return {row["dataset"]: (row["excluded"], row["edited"]) for row in rows}

    def of(self, id_of_set: str) -> dict[int, RowChange]:
        """Return the changes of a data set, by the rows' numbers."""
        rows = self._database.all(
            "SELECT * FROM changed_rows WHERE dataset = ? ORDER BY number", (id_of_set,)
        )
        return {
            row["number"]: RowChange(
                number=row["number"],
                digest=row["digest"],
                is_excluded=bool(row["excluded"]),
                content=None if row["content"] is None else json.loads(row["content"]),
            )
            for row in rows
        }

    def exclude(self, id_of_set: str, row: NumberedRow) -> None:
        """Leave a row out. Raises UsageError for one behind which nothing can be read."""
        if row.found is not None and row.found.kind in FATAL_KINDS:
            raise UsageError(
                _("Row {number} cannot be left out.").format(number=row.number),
                why=_("The file cannot be read on behind it: its other rows are unknown."),
                fix=row.found.fix,
            )
        self._put(id_of_set, row, excluded=True, content=row.change.content if row.change else None)

    def edit(self, id_of_set: str, row: NumberedRow, content: Any) -> None:
        """Put something else in a row's place."""
        self._put(id_of_set, row, excluded=False, content=content)

    def restore(self, id_of_set: str, number: int) -> None:
        """Undo the last thing that was done to a row: leaving it out, else the edit."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM changed_rows WHERE dataset = ? AND number = ? "
                "AND (content IS NULL OR NOT excluded)",
                (id_of_set, number),
            )
            connection.execute(
                "UPDATE changed_rows SET excluded = 0 WHERE dataset = ? AND number = ?",
                (id_of_set, number),
            )

    def forget(self, id_of_set: str) -> None:
        """Forget the changes of a data set that is gone."""
        self._database.change("DELETE FROM changed_rows WHERE dataset = ?", (id_of_set,))

    def _put(self, id_of_set: str, row: NumberedRow, *, excluded: bool, content: Any) -> None:
        text = None if content is None else json.dumps(content, ensure_ascii=True)
        self._database.change(
            "INSERT OR REPLACE INTO changed_rows (dataset, number, digest, excluded, content) "
            "VALUES (?, ?, ?, ?, ?)",
            (id_of_set, row.number, digest_of(row.original, row.found), excluded, text),
        )


def numbered_rows(file: Path, changes: Mapping[int, RowChange]) -> Iterator[NumberedRow]:
    """Yield all rows of a file with what was done to them. Raises EnvironmentFault."""
    for number, item in enumerate(read_rows(file), start=1):
        found = item if isinstance(item, Finding) else None
        original = None if isinstance(item, Finding) else item.content
        change = changes.get(number)
        if change is not None and change.digest != digest_of(original, found):
            change = None
        yield NumberedRow(
            number=number, place=item.place, original=original, found=found, change=change
        )


def with_exact_numbers(original: Any, edited: Any) -> Any:
    """Return an edited row with the numbers of the original that a page cannot hold exactly.

    JavaScript has doubles only: a whole number above 2**53 comes back rounded, and what is not
    finite as its name.
    """
    if isinstance(original, dict) and isinstance(edited, dict):
        return {
            name: with_exact_numbers(original[name], value) if name in original else value
            for name, value in edited.items()
        }
    if isinstance(original, list) and isinstance(edited, list) and len(original) == len(edited):
        return [*map(with_exact_numbers, original, edited)]
    if type(original) is int and abs(original) > _EXACT and type(edited) in (int, float):
        return original if _double(original) == _double(edited) else edited
    if isinstance(original, float) and not math.isfinite(original) and edited == str(original):
        return original
    return edited


def _double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def digest_of(original: Any, found: Finding | None) -> str:
    """Return 16 hexadecimal digits of a row as the file has it."""
    text = found.what if found else json.dumps(original, default=str)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def current_file(known: KnownSet, changes: Mapping[int, RowChange]) -> Path:
    """Return the file with a data set's rows as they are learned: its own, or the derived one.

    Writes the derived file where it is not there yet, or older than a change; takes as long as
    reading all rows. Raises UsageError, EnvironmentFault, CapacityError.
    """
    derived, key_file = known.folder / DERIVED_FILE, known.folder / _KEY_FILE
    if not changes:
        return known.file
    key = _key(known, changes)
    with _writing:
        if derived.is_file() and key_file.is_file():
            with readable(key_file):
                if key_file.read_text(encoding="utf-8") == key:
                    return derived
        make_folder(known.folder)
        rows = numbered_rows(known.file, changes)
        atomic_write(derived, (f"{_line(row)}\n".encode() for row in rows))
        atomic_write(key_file, key)
    return derived


def _line(row: NumberedRow) -> str:
    if row.is_excluded:
        return ""
    if row.problem is not None:
        return " ".join(str(row.problem).split())
    try:
        text = json.dumps(row.content, ensure_ascii=False, default=_no_text)
        text.encode()
    except UnicodeEncodeError:  # half a character, which stays what is wrong with the row
        text = json.dumps(row.content, default=_no_text)
    return text


def _no_text(value: object) -> list[str]:
    """Write what a table holds and JSON does not, such as a date, so that it is no text either."""
    return [str(value)]


def _key(known: KnownSet, changes: Mapping[int, RowChange]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((known.stamp, sorted(changes.items()))).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
