"""dataset_info.json: LLaMA-Factory's list of data sets, read in UTF-8.

Only the entry that is asked for is checked: the file may list data sets for other programs. Knows
the keys of an entry; must not know rows.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.formats.format import (
    DEFAULT_COLUMNS,
    DEFAULT_TAGS,
    NEEDED_PARTS,
    Format,
    format_of,
)
from danlu.errors import UsageError
from danlu.files.json_file import read_json_file
from danlu.language import _

INFO_FILE = "dataset_info.json"
_TEXT_KEYS = ("file_name", "hf_hub_url", "ms_hub_url", "subset", "split", "folder")
_KNOWN_KEYS = (*_TEXT_KEYS, "formatting", "num_samples", "ranking", "columns", "tags", "file_sha1")
_MOST_SAMPLES = 10_000_000  # rows that are drawn stand in memory as a number each
_OTHER_SOURCES = ("om_hub_url", "script_url", "cloud_file_name")
_OTHER_COLUMNS = ("images", "videos", "audios", "chosen", "rejected", "kto_tag")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set of dataset_info.json. format: None where the entry leaves it open."""

    file_name: str | None = None
    hf_hub_url: str | None = None
    ms_hub_url: str | None = None
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: int | None = None
    format: Format | None = None


def read_info(info: Path) -> dict[str, Any]:
    """Return the entries by name, unchecked; none without the file. Raises DataError."""
    if not info.exists():
        return {}
    fix = _("Correct the file; it must be valid JSON in UTF-8.")
    return dict(read_json_file(info, fix=fix).fields)


def entry_of(name: str, value: Any, info: Path) -> Entry:
    """Check an entry. Raises UsageError for what danlu does not know or cannot do."""
    refused = _Refusal(name, info)
    if not isinstance(value, dict):
        raise refused.because(_("the entry is not an object"), _("Write {...} with a file_name."))
    for source in _OTHER_SOURCES:
        if value.get(source):
            raise refused.because(
                _("{key} is not supported").format(key=source),
                _("Download the data, and name it as file_name (or hf_hub_url, ms_hub_url)."),
            )
    if value.get("ranking"):
        raise refused.because(
            _("it is made for preference training (ranking)"), _("Use a data set with one answer.")
        )
    for key in value:
        if key not in _KNOWN_KEYS:
            raise refused.unknown(_("the key"), key, _KNOWN_KEYS)
    number = value.get("num_samples")
    if number is not None and (type(number) is not int or not 1 <= number <= _MOST_SAMPLES):
        raise refused.because(
            _("num_samples is not a number of rows"),
            _("Write a whole number from 1 to {most}.").format(most=_MOST_SAMPLES),
        )
    texts = {key: value[key] for key in _TEXT_KEYS if not _is_empty(value.get(key))}
    refused.unless_texts(texts)
    return Entry(**texts, num_samples=number, format=_format(value, refused))


def _is_empty(name: Any) -> bool:
    """Tell whether a name says "there is none", as LLaMA-Factory reads null and ""."""
    return name is None or name == ""


def _format(value: Mapping[str, Any], refused: _Refusal) -> Format | None:
    """Return the format that an entry describes; None where it leaves it open."""
    formatting, columns, tags = (value.get(key) for key in ("formatting", "columns", "tags"))
    if _is_empty(formatting):
        if columns is None and tags is None:
            return None
        formatting = "alpaca"
    if not isinstance(formatting, str) or formatting not in DEFAULT_COLUMNS:
        raise refused.unknown("formatting", str(formatting), DEFAULT_COLUMNS)
    refused.unless_renames("columns", columns, DEFAULT_COLUMNS[formatting])
    refused.unless_renames("tags", tags, DEFAULT_TAGS[formatting])
    form = format_of(formatting, columns=columns, tags=tags)
    twice = {one for one, count in Counter(form.columns.values()).items() if count > 1}
    if twice:
        raise refused.because(
            _("the column {name} stands for two parts").format(name=min(twice)),
            _("Name another column for one of them."),
        )
    for parts in NEEDED_PARTS[formatting]:
        if not any(part in form.columns or part in form.tags for part in parts):
            raise refused.because(
                _("no name is left for {part}").format(part=parts[0]),
                _("Give it one: {example}").format(example=f'"{parts[0]}": "..."'),
            )
    return form


@dataclass(frozen=True)
class _Refusal:
    """Makes the errors about one entry."""

    name: str
    info: Path

    def because(self, problem: str, fix: str) -> UsageError:
        return UsageError(
            _("The data set {name} cannot be read.").format(name=self.name),
            why=_("In {info}, {problem}.").format(info=self.info, problem=problem),
            fix=fix,
        )

    def unknown(self, kind: str, found: str, known: Iterable[str]) -> UsageError:
        names = list(known)
        nearest = difflib.get_close_matches(found, names, n=1, cutoff=0.0)[0]
        return self.because(
            _("{kind} {found} is unknown").format(kind=kind, found=found),
            _("Did you mean {nearest}? Known are {names}.").format(
                nearest=nearest, names=", ".join(names)
            ),
        )

    def unless_texts(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if not isinstance(value, str):
                raise self.because(
                    _("{key} is not a name").format(key=key), _("Write a name as its value.")
                )

    def unless_renames(self, kind: str, renames: Any, known: Mapping[str, str]) -> None:
        if renames is None:
            return
        if not isinstance(renames, dict):
            raise self.because(
                _("{key} is not an object").format(key=kind), _("Write {...} as its value.")
            )
        named = {key: name for key, name in renames.items() if not _is_empty(name)}
        for key in named:
            if key in known:
                continue
            if key in _OTHER_COLUMNS:
                raise self.because(
                    _("the columns name {key}; danlu trains on text with one answer").format(
                        key=key
                    ),
                    _("Use a data set of text, and remove {key}.").format(key=key),
                )
            if not known or key == "messages":
                raise self.because(
                    _("{key} is given, but alpaca rows hold no messages").format(key=key),
                    _("Add {formatting}, or remove it.").format(
                        formatting='"formatting": "sharegpt"'
                    ),
                )
            raise self.unknown(f"{kind}:", key, known)
        self.unless_texts(named)
