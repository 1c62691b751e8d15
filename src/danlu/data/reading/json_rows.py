"""Rows of JSON: an array, or one object a line; read in pieces, so memory holds a row, not a file.

`.json` and `.jsonl` are read alike. NaN, which pandas writes where a cell is empty, means the same
as null. A key that stands twice in an object makes the row ambiguous. Knows JSON (RFC 8259); must
not know what the rows mean.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.data.findings import BadRow
from danlu.data.reading.encoding import (
    MAX_ROW_BYTES,
    BrokenFile,
    read_lines,
    read_pieces,
    row_too_large,
)
from danlu.language import _
from danlu.reasons import library_reason, reason_of

# Names that people know better than Unicode's.
_INVISIBLE = {"\ufeff": "byte order mark"}
_SPACE = re.compile(r"[ \t\r\n]*")
# What a cut leaves undecided (the end of a number, a word, an escape) is never longer.
_LONGEST_TOKEN = 32


def json_rows(file: Path) -> Iterator[tuple[int | str, Any]]:
    """Yield line and content of each row; the content of a broken line is the BadRow.

    A row of an array that begins on the line of the row before has `line:column` for its line.

    Raises BrokenFile where it cannot be read on, OSError.
    """
    texts = (piece.lstrip(" \t\r\n") for piece in read_pieces(file))
    beginning = next((text[:_LONGEST_TOKEN] for text in texts if text), "")
    if beginning.startswith("["):
        return array_rows(read_pieces(file))
    is_object_over_lines = re.match(r"\{[ \t\r]*\n", beginning) is not None
    if is_object_over_lines or (file.suffix.lower() == ".json" and beginning[:1] not in ("", "{")):
        raise BrokenFile(
            "broken_json",
            1,
            _("The file holds neither an array of rows nor one row a line."),
            _("Put the rows between [ and ], with commas, or write each on one line."),
        )
    return _line_rows(file)


def array_rows(pieces: Iterator[str]) -> Iterator[tuple[int | str, Any]]:
    """Yield place and content of each element of a JSON array. Raises BrokenFile.

    The place is the element's line; `line:column` where the element before begins on it too: no two
    have the same.
    """
    window = _Window(pieces)
    if window.next_character() != "[":
        raise window.broken(_("the file does not hold an array: [ ... ]"))
    window.position += 1
    following = window.next_character()
    line_before = 0
    while following != "]":
        line, column = window.line, window.column
        yield f"{line}:{column}" if line == line_before else line, window.value()
        line_before = line
        following = window.next_character()
        if following == ",":
            window.position += 1
            window.next_character()
        elif following != "]":
            raise window.broken(_("a comma or the closing ] is missing"))
    window.position += 1
    if window.next_character():
        raise window.broken(_("there is text after the closing ]"))


def _line_rows(file: Path) -> Iterator[tuple[int | str, Any]]:
    decoder = _Decoder()
    for number, text in enumerate(read_lines(file), start=1):
        line = text.strip(" \t\r\n")
        if not line:
            continue
        try:
            content, end = decoder.decode(line, 0)
            if end != len(line):
                raise json.JSONDecodeError("Extra data", line, end)
        except (ValueError, RecursionError) as problem:
            content = BadRow(
                "broken_line",
                _("The line is not JSON: {reason}.").format(reason=_reason(problem)),
                _("Correct the line."),
            )
        yield number, content


def _foreign_sign(text: str, position: int) -> str | None:
    """Name the character at which JSON ends where it only looks like one of JSON's, or like none.

    Python's decoder stops at it or just before it.
    """
    for character in text[position : position + 2]:
        if character.isascii() or unicodedata.category(character)[0] not in "CZPS":
            continue
        name = _INVISIBLE.get(character) or unicodedata.name(character, "?").lower()
        code = f"U+{ord(character):04X}"
        if unicodedata.category(character)[0] in "CZ":
            return _("{code}, {name}, which cannot be seen, is none of its signs").format(
                code=code, name=name
            )
        return _("{sign} ({code}, {name}) is none of its signs").format(
            sign=character, code=code, name=name
        )
    return None


class _Decoder:
    """Decodes single values."""

    def __init__(self) -> None:
        self._twice: list[str] = []
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=lambda name: None if name == "NaN" else float(name),
        )

    def decode(self, text: str, position: int) -> tuple[Any, int]:
        """Return the value at a position and where it ends. Raises ValueError, RecursionError."""
        self._twice.clear()
        content, end = self._json.raw_decode(text, position)
        if self._twice:
            content = BadRow(
                "key_twice",
                _("The key {name} stands twice in one object.").format(name=self._twice[0]),
                _("Remove one of them."),
            )
        return content, end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            counts = Counter(key for key, _value in pairs)
            self._twice.append(next(key for key, count in counts.items() if count > 1))
        return content


class _Window:
    """The part of a text that is being read; it slides over the pieces.

    position: the next character to read. line: the line on which it stands.
    """

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._decoder = _Decoder()
        self._text = ""
        self._line_start = 0  # where the line begins in the text; below 0 where it began before it
        self.position = 0
        self.line = 1

    @property
    def column(self) -> int:
        """Count the characters from the beginning of the line to the next one to read, from 1."""
        return self.position - self._line_start + 1

    def next_character(self) -> str:
        """Step over white space and return the character that follows, "" at the end."""
        while True:
            space = _SPACE.match(self._text, self.position)
            self._move(space.end() if space else self.position)
            if self.position < len(self._text) or not self._grow():
                return self._text[self.position : self.position + 1]

    def value(self) -> Any:
        """Read one value. Raises BrokenFile."""
        while True:
            problem: json.JSONDecodeError | None = None
            try:
                content, end = self._decoder.decode(self._text, self.position)
            except json.JSONDecodeError as error:
                problem, end = error, error.pos
                if error.msg.startswith("Unterminated string"):
                    end = len(self._text)
            except (ValueError, RecursionError) as error:
                raise self.broken(reason_of(error)) from None
            # What ends or fails near the end of the text may go on in the next piece.
            if end > len(self._text) - _LONGEST_TOKEN and self._grow():
                continue
            if problem is not None:
                reason = _foreign_sign(self._text, problem.pos) or library_reason(problem.msg)
                self._move(problem.pos)
                raise self.broken(reason)
            self._move(end)
            return content

    def broken(self, reason: str) -> BrokenFile:
        """Return the error that the text cannot be read from the position on."""
        return BrokenFile(
            "broken_json",
            self.line,
            _("The array cannot be read on: {reason}.").format(
                reason=_at_column(reason, self.column)
            ),
            _("Correct the line; the file must be valid JSON."),
        )

    def _move(self, position: int) -> None:
        newlines = self._text.count("\n", self.position, position)
        if newlines:
            self.line += newlines
            self._line_start = self._text.rindex("\n", 0, position) + 1
        self.position = position

    def _grow(self) -> bool:
        """Read at least as much again as is waiting, so that a long row costs linear time."""
        waiting = self._text[self.position :]
        if len(waiting) > MAX_ROW_BYTES:
            raise row_too_large(self.line)
        parts, size = [waiting], 0
        while size <= len(waiting) and (piece := next(self._pieces, "")):
            parts.append(piece)
            size += len(piece)
        if not size:
            return False
        self._line_start -= self.position
        self._text, self.position = "".join(parts), 0
        return True


def _reason(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError):
        reason = _foreign_sign(problem.doc, problem.pos) or library_reason(problem.msg)
        return _at_column(reason, problem.colno)
    if isinstance(problem, RecursionError):
        return _("it is nested too deeply")
    return reason_of(problem)


def _at_column(reason: str, column: int) -> str:
    return _("{reason} (column {column})").format(reason=reason, column=column)
