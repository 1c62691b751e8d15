"""Data sets by their ids: the list, the file to train on, and the words that a training reads.

What is learned of a data set is its file, with rows excluded and edited (`changed_rows`), read by
the columns that were chosen for it (`column_choice`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.data.dataset_info import INFO_FILE, read_info
from danlu.data.reading.rows import read_rows
from danlu.errors import DanluError
from danlu.web.data.changed_rows import DERIVED_FILE, ChangedRows, current_file
from danlu.web.data.column_choice import chosen_columns, write_entry
from danlu.web.data.data_folders import KnownSet
from danlu.web.studio import Studio

Json = dict[str, Any]
# Files up to this size are counted while the list waits: a tenth of a second.
_QUICKLY_COUNTED = 8 << 20
# The part of a mix that is not learned.
PROBE = "probe"


def listed_sets(studio: Studio) -> list[Json]:
    """Describe all data sets for a page; rows: None where they have not been counted yet."""
    changes = ChangedRows(studio.database).counts()
    sets = []
    for known in studio.data.all():
        try:
            size, _time = known.stamp
        except DanluError:
            continue
        excluded, edited = changes.get(known.id, (0, 0))
        sets.append(
            {
                "id": known.id,
                "name": known.name,
                "kind": known.kind,
                "size_bytes": size,
                "rows": counted_rows(studio, known) if size <= _QUICKLY_COUNTED else None,
                "excluded": excluded,
                "edited": edited,
                "created": known.created,
            }
        )
    return sets


def counted_rows(studio: Studio, known: KnownSet) -> int:
    """Count the rows of a data set's own file; what was counted is remembered."""
    key = (known.file, known.stamp)
    counts = studio.data.num_rows
    if key not in counts:
        counts[key] = sum(1 for _row in read_rows(known.file))
    return counts[key]


def dataset_path(studio: Studio, id_of_set: str) -> Path:
    """Return the file to train on: a data set's own, or one with its changed rows.

    May write that file, so not on the event loop. Raises UsageError for an unknown id, and what
    writing raises.
    """
    known = studio.data.find(id_of_set)
    return current_file(known, ChangedRows(studio.database).of(known.id))


def dataset_words(studio: Studio, id_of_set: str) -> dict[str, str]:
    """Return the settings that name a data set to a training: dataset, and perhaps dataset_dir.

    A mix of taught and older rows has an eval_dataset, too.

    May write files, so not on the event loop. Raises as `dataset_path` does.
    """
    known = studio.data.find(id_of_set)
    if known.kind == "mix":
        return mix_words(known)
    path = dataset_path(studio, id_of_set)
    columns = chosen_columns(studio.data, known)
    if not columns and not {",", "~"} & set(str(path)):
        return {"dataset": str(path)}
    name = entry_name(known)
    write_entry(known, name, path, columns)
    return {"dataset": name, "dataset_dir": str(known.folder)}


def learned_set(studio: Studio, settings: Mapping[str, Any]) -> str | None:
    """Return the id of the data set that a training has learned; None where none is listed."""
    dataset, folder = settings.get("dataset"), settings.get("dataset_dir")
    for known in studio.data.all():
        files = (str(known.file), str(known.folder / DERIVED_FILE))
        if dataset in files or folder == str(known.folder):
            return known.id
    return None


def mix_words(known: KnownSet) -> dict[str, str]:
    """Name the parts of a mix: what is learned, and the rows to judge by, where it has some."""
    names = list(read_info(known.folder / INFO_FILE))
    words = {
        "dataset": ",".join(name for name in names if name != PROBE),
        "dataset_dir": str(known.folder),
    }
    return {**words, "eval_dataset": PROBE} if PROBE in names else words


def entry_name(known: KnownSet) -> str:
    """Name a data set in a list: its file's name, without what would divide the list."""
    return re.sub(r"[^\w.-]+", "-", Path(known.name).stem).strip("-.") or known.id
