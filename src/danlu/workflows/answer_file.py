"""The answers to the rows of a file: a JSON line for each row, in the order of the rows.

A line appears when its row is answered, so that the number of lines says where to go on. Beside the
file stands what it is made with, `NAME.made_with.json`: going on with another model or other
sampling would mix two kinds of answers. Knows files and rows. Must not know models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.findings import Finding
from danlu.data.reading.encoding import BrokenFile
from danlu.data.reading.json_rows import json_rows
from danlu.data.reading.rows import RawRow, readable_data
from danlu.errors import UsageError
from danlu.files.atomic import append_line, atomic_write, cut_torn_line, make_folder
from danlu.files.json_file import read_json_file
from danlu.language import _

# What an answer adds to the fields of its row.
ANSWER_FIELDS = frozenset(
    {"answer", "reasoning", "tool_calls", "finish_reason", "prompt_tokens", "completion_tokens"}
    | {"error"}
)
# What is recorded under another name than its flag has.
_FLAGS = {"max_tokens": "max_new_tokens"}


@dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """A file of answers that begins or goes on.

    num_lines: the rows that it has a line for; num_refused: those of them without an answer.
    """

    path: Path
    num_lines: int = 0
    num_refused: int = 0

    @property
    def made_with(self) -> Path:
        """Where it stands what the answers are made with."""
        return self.path.with_name(f"{self.path.name}.made_with.json")

    @classmethod
    def of_rows(cls, path: Path, rows: Iterable[RawRow | Finding]) -> AnswerFile:
        """Find how many of these rows have a line; a last one that was torn is removed.

        Raises UsageError where the file holds something else, such as answers to other rows.
        """
        found = cls(path=path)
        if not path.exists():
            return found
        if not found.made_with.is_file():
            raise found._refused(
                _("It was not written by danlu generate: there is no {name} beside it.").format(
                    name=found.made_with.name
                )
            )
        cut_torn_line(path)
        count, refused, asked = 0, 0, iter(rows)
        try:
            with readable_data(path):
                for count, (_number, line) in enumerate(json_rows(path), start=1):
                    if not _is_answer(line, next(asked, None)):
                        raise found._refused(_other_row(count))
                    refused += line["answer"] is None
        except BrokenFile:
            raise found._refused(_other_row(count + 1)) from None
        return cls(path=path, num_lines=count, num_refused=refused)

    def seed(self, otherwise: int) -> int:
        """Return the seed that the answers were begun with, or another one."""
        recorded = self._recorded().get("seed")
        return recorded if isinstance(recorded, int) else otherwise

    def begin(self, made_with: Mapping[str, Any]) -> None:
        """Record what the answers are made with.

        Raises UsageError where there are answers that were made with something else.
        """
        before = self._recorded()
        for name, value in made_with.items() if before else ():
            if before.get(name) != value:
                raise self._refused(
                    _("Its answers were made with {name} {before}; this command says {value}.")
                    .format(name=_FLAGS.get(name, name), before=before.get(name), value=value)
                )  # fmt: skip
        make_folder(self.path.parent)
        atomic_write(self.made_with, json.dumps(made_with, indent=1) + "\n")

    def add(self, item: RawRow | Finding, answer: Mapping[str, Any]) -> None:
        """Add the line of the next row: its fields, and what was answered."""
        record = {**_fields(item), **answer}
        append_line(self.path, json.dumps(record, ensure_ascii=not _is_text(record), default=str))

    def num_written(self) -> int:
        """Count the lines that are there now."""
        if not self.path.exists():
            return 0
        with readable_data(self.path), self.path.open("rb") as lines:
            return sum(1 for _line in lines)

    def _recorded(self) -> Mapping[str, Any]:
        if not self.num_lines or not self.made_with.exists():
            return {}
        return read_json_file(self.made_with, fix=self._fix()).fields

    def _refused(self, why: str) -> UsageError:
        return UsageError(
            _("{path} exists already.").format(path=self.path), why=why, fix=self._fix()
        )

    def _fix(self) -> str:
        return _("Choose another --output, or remove that file.")


def _fields(item: RawRow | Finding | None) -> dict[str, Any]:
    """Return a row's own fields; one that is called like ours is kept under another name."""
    if not isinstance(item, RawRow):
        return {}
    row = item.content if isinstance(item.content, Mapping) else {"row": item.content}
    fields = {str(key): value for key, value in row.items()}
    for name in ANSWER_FIELDS & set(fields):
        other = f"input_{name}"
        while other in fields:
            other = f"input_{other}"
        fields[other] = fields.pop(name)
    return fields


def _is_answer(line: Any, item: RawRow | Finding | None) -> bool:
    """Tell whether a line of the file answers a row."""
    if item is None or not isinstance(line, Mapping) or "answer" not in line:
        return False
    fields = json.loads(json.dumps(_fields(item), default=str))
    kept = {name: value for name, value in line.items() if name not in ANSWER_FIELDS}
    return bool(kept == fields)


def _other_row(number: int) -> str:
    return _("Its line {number} does not answer row {number} of --input.").format(number=number)


def _is_text(record: Mapping[str, Any]) -> bool:
    """Tell whether all characters are whole: a row may hold half of one."""
    try:
        json.dumps(record, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True
