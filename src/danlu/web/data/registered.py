"""Data sets by their ids: the list, and the words that a training reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import danlu
from danlu.errors import UsageError
from danlu.files.home import danlu_home
from danlu.language import _
from danlu.web.studio import Studio

EXAMPLE = "example"


def listed_sets(_studio: Studio) -> list[dict[str, Any]]:
    """Describe all data sets for a page."""
    ids = [EXAMPLE, *sorted(folder.name for folder in _uploads().glob("*") if folder.is_dir())]
    return [{"id": name, "name": name, "rows": None} for name in ids]


def dataset_path(_studio: Studio, id_of_set: str) -> Path:
    """Return the file of a data set. Raises UsageError for an unknown id."""
    if id_of_set == EXAMPLE:
        here = Path(danlu.__file__).parent
        packaged = here / "oneclick" / "data" / "identity.jsonl"
        return packaged if packaged.exists() else here.parents[1] / "examples" / "identity.jsonl"
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id_of_set):
        for file in sorted((_uploads() / id_of_set).glob("rows.*")):
            return file
    raise UsageError(
        _("There is no such data set."),
        why=_("It may have been removed."),
        fix=_("Choose another one."),
    )


def dataset_words(studio: Studio, id_of_set: str) -> dict[str, str]:
    """Return the settings that name a data set to a training: dataset, and perhaps dataset_dir."""
    return {"dataset": str(dataset_path(studio, id_of_set))}


def _uploads() -> Path:
    return danlu_home() / "studio" / "data"
