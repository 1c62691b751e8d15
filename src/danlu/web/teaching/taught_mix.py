"""What is trained on: the taught rows, and beside them a share of older ones, so that these stay.

A mix is a folder of its own among the data sets: the taught rows as they are now, older rows drawn
by chance but always the same ones, and further older rows that are not learned: their loss before
and after tells whether anything was forgotten.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.dataset_info import INFO_FILE
from danlu.data.datasets import DataSet, find_datasets
from danlu.data.findings import BadRow, Finding
from danlu.data.formats.format import DEFAULT_COLUMNS, DEFAULT_TAGS, Format
from danlu.data.reading.rows import read_rows
from danlu.errors import UsageError
from danlu.files.committed import committed_folder
from danlu.language import _
from danlu.web.data.data_folders import UPLOAD_FILE, sets_folder
from danlu.web.data.registered import PROBE

Json = dict[str, Any]
TAUGHT_ROWS, OLDER_ROWS, PROBE_ROWS = "taught.jsonl", "older.jsonl", f"{PROBE}.jsonl"
NUM_PROBE_ROWS = 20
# Beside a few taught rows a share of them would be one or two, and those learned by heart: with one
# taught and one older row the starter's loss of what it knew rose from 0.15 to 0.91, with nineteen
# older ones it stayed at 0.11.
LEAST_OLDER_ROWS = 20
_SEED = 42


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A mix that was written. id: of the data set; the numbers of its rows of each sort."""

    id: str
    num_taught: int
    num_older: int
    num_probe: int


def write_mix(taught: Sequence[str], words: dict[str, str] | None, share: float) -> Mix:
    """Write a mix in which older rows are about `share` of all, but LEAST_OLDER_ROWS at least.

    taught: the lines. words: those of the data set with the older rows. Reads all of it, so not on
    the event loop. Raises UsageError where nothing was taught, and what reading and writing raise.
    """
    if not taught:
        raise UsageError(
            _("Nothing was taught yet."),
            why=_("There would be nothing to learn."),
            fix=_("Correct an answer in the chat."),
        )
    older: list[str] = []
    entry: Json = {}
    wanted = max(LEAST_OLDER_ROWS, round(len(taught) * share / (1 - share))) if share else 0
    if words is not None and wanted:
        (dataset,) = find_datasets(
            words["dataset"], Path(words.get("dataset_dir", "")), max_samples=None, seed=_SEED
        )
        older = _drawn(dataset, wanted + NUM_PROBE_ROWS)
        entry = _entry(dataset.format)
    # Of a small data set a part of the rows is still kept back.
    num_probe = min(NUM_PROBE_ROWS, max(len(older) - wanted, len(older) // 4))
    num_older = min(wanted, len(older) - num_probe)
    parts = {
        TAUGHT_ROWS: list(taught),
        OLDER_ROWS: older[:num_older],
        PROBE_ROWS: older[num_older:][:num_probe],
    }
    id_of_set = secrets.token_hex(8)
    with committed_folder(sets_folder() / id_of_set) as draft:
        for name, lines in parts.items():
            if lines:
                draft.write(name, "".join(f"{line}\n" for line in lines))
        entries = {
            Path(name).stem: {"file_name": name, **({} if name == TAUGHT_ROWS else entry)}
            for name, lines in parts.items()
            if lines
        }
        draft.write(INFO_FILE, json.dumps(entries, ensure_ascii=False, indent=1))
        mix = Mix(
            id=id_of_set,
            num_taught=len(taught),
            num_older=len(parts[OLDER_ROWS]),
            num_probe=len(parts[PROBE_ROWS]),
        )
        draft.write(UPLOAD_FILE, json.dumps(_record(mix)))
    return mix


def _entry(form: Format) -> Json:
    """Describe a format in full; a part that it has not is empty, else it had its usual name."""
    kind = form.formatting
    entry: Json = {
        "formatting": kind,
        "columns": {part: form.columns.get(part, "") for part in DEFAULT_COLUMNS[kind]},
    }
    if DEFAULT_TAGS[kind]:
        entry["tags"] = {part: form.tags.get(part, "") for part in DEFAULT_TAGS[kind]}
    return entry


def _record(mix: Mix) -> Json:
    return {
        "kind": "mix",
        "name": TAUGHT_ROWS,
        "file": TAUGHT_ROWS,
        "created": time.time(),
        "taught": mix.num_taught,
        "older": mix.num_older,
        "probe": mix.num_probe,
    }


def _drawn(dataset: DataSet, count: int) -> list[str]:
    """Draw usable rows, each once; the same ones every time."""
    chance, kept = random.Random(_SEED), list[str]()
    for seen, line in enumerate(_usable(dataset), start=1):
        # Reservoir sampling (Vitter's algorithm R): no list of all rows is needed.
        place = len(kept) if len(kept) < count else chance.randrange(seen)
        if place == len(kept):
            kept.append(line)
        elif place < count:
            kept[place] = line
    chance.shuffle(kept)
    return kept


def _usable(dataset: DataSet) -> Iterator[str]:
    for file in dataset.files:
        for item in read_rows(file):
            if isinstance(item, Finding):
                continue
            try:
                dataset.format.read_row(item.content)
                yield json.dumps(item.content)
            except (BadRow, TypeError, ValueError):
                continue
