"""The models of this machine: the folder that pulled ones are kept in. No torch here.

DANLU_HOME/models/NAME is a committed folder: complete and verified, or not there. What is being
pulled lies beside it, as .NAME.pulling, until it is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danlu.files.committed import MANIFEST
from danlu.files.home import danlu_home
from danlu.runs.registry import size_of

_UNFINISHED = ".pulling"


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A pulled model, or one that is pulled in part."""

    name: str
    folder: Path
    is_complete: bool

    @property
    def num_bytes(self) -> int:
        """What its files take."""
        return size_of(self.folder)


def models_folder() -> Path:
    """Return the folder that pulled models are kept in; it may not exist yet."""
    return danlu_home() / "models"


def complete_folder(name: str) -> Path:
    """Return where a pulled model stands once it is complete."""
    return models_folder() / name


def unfinished_folder(name: str) -> Path:
    """Return where the files of a model are gathered until all are there."""
    return models_folder() / f".{name}{_UNFINISHED}"


def stored_models() -> list[StoredModel]:
    """List what was pulled, in whole or in part, by name."""
    found = []
    for folder in sorted(models_folder().glob("*")):
        if folder.name.startswith(".") and folder.name.endswith(_UNFINISHED):
            name, is_complete = folder.name[1 : -len(_UNFINISHED)], False
        elif (folder / MANIFEST).is_file() and not folder.name.startswith("."):
            name, is_complete = folder.name, True
        else:
            continue
        found.append(StoredModel(name=name, folder=folder, is_complete=is_complete))
    return sorted(found, key=lambda model: model.name)


def is_stored(name: str) -> bool:
    """Tell whether a model was pulled and is complete."""
    return (complete_folder(name) / MANIFEST).is_file()
