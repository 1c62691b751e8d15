"""Which columns of a data set are its questions and answers, where its own names do not say it.

The choice is an entry in a dataset_info.json beside the data set, as LLaMA-Factory reads it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from danlu.data.dataset_info import INFO_FILE, entry_of, read_info
from danlu.data.datasets import find_datasets
from danlu.data.findings import Finding
from danlu.data.formats.format import DEFAULT_COLUMNS, DEFAULT_TAGS
from danlu.data.reading.rows import read_rows
from danlu.errors import DanluError
from danlu.files.atomic import atomic_write, make_folder
from danlu.language import _
from danlu.web.data.data_folders import DataFolders, KnownSet

Json = dict[str, Any]
_KEYS = ("formatting", "columns", "tags")
_SHOWN_ROWS = 5
_LOOKED_AT = 50
_MOST_FIELDS = 100
_LONGEST_CELL = 300


def chosen_columns(folders: DataFolders, known: KnownSet) -> Json:
    """Return formatting, columns and tags that were chosen; empty where nothing was.

    A registered folder's own dataset_info.json counts until a choice is made here.
    """
    own = _entries(known.folder / INFO_FILE)
    if own:
        return _only_columns(own[0])
    if known.kind == "folder" and folders.below is not None:
        for entry in _entries(folders.below / INFO_FILE):
            if entry.get("file_name") == known.name:
                return _only_columns(entry)
    return {}


def choose_columns(known: KnownSet, name: str, path: Path, choice: Json) -> None:
    """Keep a choice; an empty one leaves it to the names. Raises UsageError for a wrong one."""
    info = known.folder / INFO_FILE
    entry_of(name, {"file_name": path.name, **choice}, info)
    write_entry(known, name, path, choice)


def write_entry(known: KnownSet, name: str, path: Path, choice: Mapping[str, Any]) -> None:
    """Write the list with the one entry, unless it stands there already."""
    info = known.folder / INFO_FILE
    content = json.dumps({name: {"file_name": str(path), **choice}}, ensure_ascii=False, indent=1)
    if not info.is_file() or info.read_text(encoding="utf-8") != content:
        make_folder(known.folder)
        atomic_write(info, content)


def described_columns(words: Mapping[str, str], known: KnownSet, choice: Json) -> Json:
    """Describe how a data set's rows are read, with its first ones; or why they cannot be.

    words: as `dataset_words` gives them.
    """
    rows = [_flat(content) for content in _first_rows(known.file)]
    fields = list(dict.fromkeys(name for row in rows for name in row))[:_MOST_FIELDS]
    described: Json = {
        "chosen": bool(choice),
        "fields": fields,
        "rows": [{name: row.get(name, "") for name in fields} for row in rows[:_SHOWN_ROWS]],
        "defaults": {
            form: {"columns": DEFAULT_COLUMNS[form], "tags": DEFAULT_TAGS[form]}
            for form in DEFAULT_COLUMNS
        },
        "problem": "",
        "origin": "",
        "inner": _inner_keys(known.file),
    }
    try:
        (found,) = find_datasets(
            words["dataset"], Path(words.get("dataset_dir", "")), max_samples=None, seed=0
        )
    except DanluError as problem:
        return {
            **described,
            "formatting": choice.get("formatting") or None,
            "columns": choice.get("columns") or {},
            "tags": choice.get("tags") or {},
            "problem": known.in_page_words(f"{problem.what} {problem.why}"),
        }
    return {
        **described,
        "origin": _("as chosen here") if choice else known.in_page_words(found.origin),
        "formatting": found.format.formatting,
        "columns": dict(found.format.columns),
        "tags": dict(found.format.tags),
    }


def _entries(info: Path) -> list[Json]:
    try:
        return [entry for entry in read_info(info).values() if isinstance(entry, dict)]
    except DanluError:
        return []


def _only_columns(entry: Mapping[str, Any]) -> Json:
    return {key: entry[key] for key in _KEYS if entry.get(key)}


def _first_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    for item in islice(read_rows(file), _LOOKED_AT):
        if not isinstance(item, Finding) and isinstance(item.content, Mapping):
            yield item.content


def _flat(content: Mapping[str, Any]) -> dict[str, str]:
    """Write the cells of a row as short texts."""
    cells = {}
    for name, value in islice(content.items(), _MOST_FIELDS):
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        cells[_shown(str(name))] = _shown(text[:_LONGEST_CELL])
    return cells


def _inner_keys(file: Path) -> dict[str, list[str]]:
    """Return, for each field that holds a list of objects, the names inside of these."""
    inner: dict[str, dict[str, None]] = {}
    for content in _first_rows(file):
        for name, value in islice(content.items(), _MOST_FIELDS):
            for entry in value[:20] if isinstance(value, list) else ():
                if isinstance(entry, Mapping):
                    keys = inner.setdefault(_shown(str(name)), {})
                    keys.update(dict.fromkeys(_shown(str(key)) for key in islice(entry, 20)))
    return {name: list(keys)[:_MOST_FIELDS] for name, keys in inner.items()}


def _shown(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
