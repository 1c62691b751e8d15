"""checkpoint-N folders and final/, each a committed folder inside a run's folder.

Knows their names, their order and how to trust them. What they hold is bytes from training.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import DataError
from danlu.files.atomic import link_or_copy
from danlu.files.committed import MANIFEST, FolderDraft, committed_folder, discard, verify

FINAL = "final"
_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint: the optimizer steps done, and its folder."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search found: the newest good checkpoint, and why newer ones were passed over."""

    newest: Checkpoint | None
    damaged: tuple[DataError, ...]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` optimizer steps; it may not exist."""
    return folder / f"checkpoint-{step}"


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """List the checkpoint folders by rising step, unverified."""
    if not folder.is_dir():
        return []
    named = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir() if path.is_dir())
    found = [Checkpoint(step=int(match[1]), path=path) for path, match in named if match]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def find_newest(folder: Path) -> Search:
    """Find the newest checkpoint that verifies; damaged ones are named and skipped."""
    damaged: list[DataError] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify(checkpoint.path)
        except DataError as fault:
            damaged.append(fault)
        else:
            return Search(newest=checkpoint, damaged=tuple(damaged))
    return Search(newest=None, damaged=tuple(damaged))


def commit_checkpoint(folder: Path, step: int) -> AbstractContextManager[FolderDraft]:
    """Write checkpoint-`step` as a committed folder: `with commit_checkpoint(...) as draft`."""
    return committed_folder(checkpoint_path(folder, step))


def prune(folder: Path, *, keep: int, protect: Collection[int] = ()) -> None:
    """Remove all but the last `keep` checkpoints and those whose step is in `protect`."""
    if keep < 1:
        raise ValueError("at least one checkpoint is kept")
    for checkpoint in list_checkpoints(folder)[:-keep]:
        if checkpoint.step not in protect:
            discard(checkpoint.path)


def remove_checkpoint(folder: Path, step: int) -> None:
    """Remove checkpoint-`step`; a missing one is fine."""
    path = checkpoint_path(folder, step)
    if path.is_dir():
        discard(path)


def commit_final(folder: Path) -> AbstractContextManager[FolderDraft]:
    """Write final/ as a committed folder."""
    return committed_folder(folder / FINAL)


def publish_final(folder: Path) -> None:
    """Show the files of final/ at the root of the run's folder, as relative links.

    Raises DataError when final/ does not verify.
    """
    for name in verify(folder / FINAL):
        if name != MANIFEST:
            link_or_copy(folder / FINAL / name, folder / name)
