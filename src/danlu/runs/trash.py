"""What danlu has moved aside instead of overwriting it: the folders `.trash` beside and in runs.

Nothing is removed by itself. Names end with the time at which they were moved; whatever else lies
in such a folder is the user's and is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from danlu.files.committed import TRASH, discard, retire
from danlu.files.leftovers import remove_any
from danlu.files.lock import holder_of
from danlu.files.os_errors import explained
from danlu.runs.folder import RunFolder
from danlu.runs.registry import registered_folders, size_of

_NAME = re.compile(r"(.+)-(\d{8}-\d{6})(?:-\d+)?")


@dataclass(frozen=True, kw_only=True)
class Trashed:
    """A run, checkpoint or file that was moved aside. moved: YYYYMMDD-HHMMSS."""

    path: Path
    name: str
    moved: str
    size_bytes: int


def move_to_trash(folder: Path) -> Trashed:
    """Move a run into the trash beside it. Raises UsageError where it is none, or in use."""
    with RunFolder.reopen(folder):
        path = retire(folder)
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return Trashed(path=path, name=match[1], moved=match[2], size_bytes=size_of(path))


def list_trash() -> list[Trashed]:
    """Return what lies in the trash of every run that this machine knows, the newest first."""
    found = []
    for folder in sorted(_trash_folders()):
        with explained(folder):
            entries = sorted(folder.iterdir())
        for path in entries:
            match = _NAME.fullmatch(path.name)
            if match is not None:
                size = size_of(path)
                found.append(Trashed(path=path, name=match[1], moved=match[2], size_bytes=size))
    return sorted(found, key=lambda entry: entry.moved, reverse=True)


def empty_trash(entries: list[Trashed]) -> Iterator[Trashed]:
    """Remove entries for good and yield each; a run that a process uses is left."""
    for entry in entries:
        if not entry.path.is_dir() or entry.path.is_symlink():
            with explained(entry.path):
                remove_any(entry.path)
        elif holder_of(entry.path) is None:
            discard(entry.path)
        else:
            continue
        yield entry


def _trash_folders() -> set[Path]:
    """Find the trash beside each run and, for its checkpoints, in it."""
    places = {place for run in registered_folders() for place in (run.parent, run)}
    return {place / TRASH for place in places if (place / TRASH).is_dir()}
