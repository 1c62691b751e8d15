"""What `--dataset` means: a data file, or a name in dataset_info.json; its rows as conversations.

dataset_info.json is LLaMA-Factory's. `columns` may name only what differs from the defaults (there
every name left out becomes empty, which nobody wants).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.alpaca import DEFAULT_COLUMNS, conversation_of
from danlu.data.findings import BadRow, Finding, listed
from danlu.data.rows import SUFFIXES, read_rows
from danlu.errors import DataError, UsageError
from danlu.language import _
from danlu.text.conversation import Conversation

INFO_FILE = "dataset_info.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A usable row: where it stands, and the conversation it holds."""

    place: str
    conversation: Conversation


def load_rows(name: str, dataset_dir: Path, *, max_samples: int | None = None) -> list[Row]:
    """Read a data set; `max_samples` keeps the first rows, as LLaMA-Factory does.

    Raises UsageError for an unknown name, DataError listing every row that cannot be used.
    """
    file, columns = _find(name, dataset_dir)
    raw = read_rows(file)[:max_samples]
    rows: list[Row] = []
    findings: list[Finding] = []
    for row in raw:
        try:
            rows.append(Row(place=row.place, conversation=conversation_of(row.content, columns)))
        except BadRow as problem:
            findings.append(problem.at(row.place))
    if findings:
        raise _bad_rows(file, len(raw), findings)
    if not rows:
        raise DataError(
            _("The data set {name} has no rows.").format(name=name),
            why=_("{file} holds none.").format(file=file),
            fix=_('Add rows such as {"instruction": "...", "output": "..."}'),
        )
    return rows


def _find(name: str, dataset_dir: Path) -> tuple[Path, dict[str, str]]:
    """Return the data file of a name and the columns to read."""
    path = Path(name).expanduser()
    if path.suffix in SUFFIXES or path.is_file():
        return path, DEFAULT_COLUMNS
    info = dataset_dir / INFO_FILE
    if not info.is_file():
        raise UsageError(
            _("There is no data set {name}.").format(name=name),
            why=_("It is not a .json or .jsonl file, and {info} does not exist.").format(info=info),
            fix=_("Give the path of a data file, or the folder of {file} as --dataset_dir").format(
                file=INFO_FILE
            ),
        )
    entries = _read_info(info)
    entry = entries.get(name)
    if not isinstance(entry, dict):
        nearest = difflib.get_close_matches(name, entries, n=1, cutoff=0.0)
        raise UsageError(
            _("There is no data set {name}.").format(name=name),
            why=_("{info} does not list it.").format(info=info),
            fix=_("Did you mean {nearest}?").format(nearest=nearest[0] if nearest else "?"),
        )
    return _entry(name, entry, info)


def _entry(name: str, entry: Mapping[str, Any], info: Path) -> tuple[Path, dict[str, str]]:
    formatting = entry.get("formatting", "alpaca")
    columns = entry.get("columns") or {}
    file = entry.get("file_name")
    unknown = sorted(set(columns) - set(DEFAULT_COLUMNS)) if isinstance(columns, dict) else ["?"]
    problem = None
    if formatting != "alpaca":
        problem = _("its formatting is {value}; only alpaca is read").format(value=formatting)
    elif not isinstance(file, str):
        problem = _("it names no file_name")
    elif unknown:
        problem = _("its columns name {names}").format(names=", ".join(unknown))
    if problem or not isinstance(file, str):
        raise UsageError(
            _("The data set {name} cannot be read.").format(name=name),
            why=_("In {info}, {problem}.").format(info=info, problem=problem),
            fix=_("Convert it to alpaca rows in a .json or .jsonl file."),
        )
    return info.parent / file, {**DEFAULT_COLUMNS, **columns}


def _read_info(info: Path) -> dict[str, Any]:
    try:
        entries = json.loads(info.read_text(encoding="utf-8-sig"))
        if not isinstance(entries, dict):
            raise ValueError(_("it is not an object"))
        return entries
    except ValueError as problem:
        raise DataError(
            _("{path} cannot be read.").format(path=info),
            why=str(problem),
            fix=_("Correct the file; it must be valid JSON in UTF-8."),
        ) from problem


def _bad_rows(file: Path, total: int, findings: list[Finding]) -> DataError:
    return DataError(
        _("{count} of {total} rows in {file} cannot be used.").format(
            count=len(findings), total=total, file=file
        ),
        why="\n".join(listed(findings)),
        fix=_("Correct or remove these rows, then start again."),
    )
