"""Committed folders: a folder that appears complete or not at all, and can be verified later.

Files, in subfolders too, are written into a draft beside the target and synced; `manifest.json`
with every file's size and sha256 comes last; then one rename shows the folder under its name. Knows
nothing of what the files mean.

manifest.json: {"version": 1, "files": {NAME, or FOLDER/NAME: {"size": BYTES, "sha256": HEX}}}
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from danlu.errors import DataError
from danlu.files import disk
from danlu.files.atomic import make_folder, read_in_pieces
from danlu.files.disk import Bytes
from danlu.files.draft import Draft, Write
from danlu.files.json_file import MOST_BYTES, parsed
from danlu.files.leftovers import clean_leftovers, locked, remove_any, temporary_path
from danlu.files.os_errors import explained, readable
from danlu.files.regular import read_regular
from danlu.language import _
from danlu.reasons import as_sentence, reason_of

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
TRASH = ".trash"
_LARGE = 1 << 20


class FolderDraft(Draft):
    """The draft of a committed folder: files beside its target."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self._target = target
        self._entries: dict[str, dict[str, Any]] = {}

    @property
    def path(self) -> Path:
        """Where finished files of the draft can be read back before the commit."""
        return self._folder

    @contextmanager
    def stream(self, name: str) -> Iterator[Write]:
        """Open one file for writing piece by piece; it is synced at the end of the block.

        What is written is hashed on the way. Raises CapacityError or EnvironmentFault.
        """
        if not _is_inside(name) or name == MANIFEST or name in self._entries:
            raise ValueError(f"not a usable name for a new file of a committed folder: {name!r}")
        shown_as, digest, size = self._target / name, hashlib.sha256(), 0
        with self._create(name) as file, ThreadPoolExecutor(1) as beside:

            def write(data: Bytes) -> None:
                nonlocal size
                num_bytes = memoryview(data).nbytes
                # Neither needs Python: a large piece is hashed while the system takes it.
                hashed = beside.submit(digest.update, data) if num_bytes >= _LARGE else None
                with explained(shown_as, size + num_bytes):
                    disk.DISK.write(file, data)
                size += num_bytes
                if hashed is None:
                    digest.update(data)
                else:
                    hashed.result()

            yield write
            with explained(shown_as, size):
                disk.DISK.sync(file)
        self._entries[name] = {"size": size, "sha256": digest.hexdigest()}

    def adopt(self, name: str, sha256: str) -> None:
        """Take a file that stands in the draft already, with its known digest."""
        if not _is_inside(name) or name == MANIFEST:
            raise ValueError(f"not a usable name for a file of a committed folder: {name!r}")
        file = self._folder / name
        with explained(self._target / name):
            disk.DISK.sync_file(file)
            self._entries[name] = {"size": file.stat().st_size, "sha256": sha256}

    def seal(self) -> None:
        """Write the manifest, the last file, and sync the draft's names."""
        manifest = {"version": MANIFEST_VERSION, "files": dict(sorted(self._entries.items()))}
        data = _manifest_bytes(manifest)
        shown_as = self._target / MANIFEST
        with self._create(MANIFEST) as file, explained(shown_as, len(data)):
            disk.DISK.write(file, data)
            disk.DISK.sync(file)
        inner = {parent for name in self._entries for parent in Path(name).parents}
        with explained(self._target):
            for folder in sorted({Path(), *inner}):
                disk.DISK.sync_folder(self._folder / folder)

    def _create(self, name: str) -> FileIO:
        with explained(self._target / name):
            if "/" in name:
                disk.DISK.make_folder((self._folder / name).parent)
            return disk.DISK.create(self._folder / name)


@contextmanager
def committed_folder(path: Path) -> Iterator[FolderDraft]:
    """Write a folder that appears at `path` complete when the block ends without an error.

    A folder already there is replaced: it is set aside first, and gets its name back if the
    process dies before the new one is in place. Raises CapacityError, EnvironmentFault, UsageError.
    """
    make_folder(path.parent)
    clean_leftovers(path.parent, path.name)
    draft = temporary_path(path, "draft")
    try:
        with explained(path):
            disk.DISK.make_folder(draft)
        content = FolderDraft(draft, path)
        with locked(draft):
            yield content
            content.seal()
            _put_in_place(draft, path)
    except BaseException:
        with suppress(OSError):
            remove_any(draft)
        raise


def commit_gathered(gathered: Path, path: Path, digests: Mapping[str, str]) -> None:
    """Show a folder, whose files were gathered by several processes, at `path` as a committed one.

    digests: the sha256 of each file, by name; whatever else is in the folder is removed. Raises
    CapacityError, EnvironmentFault.
    """
    with explained(gathered):
        for other in gathered.iterdir():
            if other.name not in digests:
                remove_any(other)
    draft = FolderDraft(gathered, path)
    for name, digest in digests.items():
        draft.adopt(name, digest)
    draft.seal()
    _put_in_place(gathered, path)


def verify(path: Path) -> tuple[str, ...]:
    """Check every file of a committed folder and return their names.

    Raises DataError naming the first file that is missing, cut short, altered or unreadable, and
    EnvironmentFault where the system refuses to read.
    """
    entries = _read_entries(path)
    for name, entry in entries.items():
        with readable(path / name):
            _check(path / name, entry)
    return tuple(entries)


def _check(file: Path, entry: dict[str, Any]) -> None:
    if not file.exists():
        raise _damaged(file, _("The file is missing."))
    size = file.stat().st_size
    if size != entry.get("size"):
        raise _damaged(
            file,
            _("it has {size} bytes, {expected} were written").format(
                size=size, expected=entry.get("size")
            ),
        )
    digest = hashlib.sha256()
    for piece in read_in_pieces(file):
        digest.update(piece)
    if digest.hexdigest() != entry.get("sha256"):
        raise _damaged(file, _("its content has changed since it was written (sha256)"))


def discard(path: Path) -> None:
    """Remove a folder; a crash on the way leaves it whole or out of sight, never half there."""
    gone = temporary_path(path, "gone")
    with explained(path):
        disk.DISK.rename(path, gone)
        disk.DISK.sync_folder(path.parent)
        disk.DISK.remove_tree(gone)


def retire(path: Path) -> Path:
    """Move a file or folder into the folder `.trash` beside it and return its new place."""
    trash = path.parent / TRASH
    make_folder(trash)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = trash / f"{path.name}-{stamp}"
    number = 1
    while target.exists():
        number += 1
        target = trash / f"{path.name}-{stamp}-{number}"
    with explained(path):
        disk.DISK.rename(path, target)
        disk.DISK.sync_folder(trash)
        disk.DISK.sync_folder(path.parent)
    return target


def _put_in_place(draft: Path, path: Path) -> None:
    old: Path | None = None
    with explained(path):
        try:
            if path.is_symlink() or path.exists():
                old = temporary_path(path, "old")
                disk.DISK.rename(path, old)
            disk.DISK.rename(draft, path)
        except BaseException:
            # A second Ctrl-C may come between the two.
            if old is not None and not path.exists():
                with suppress(OSError):
                    disk.DISK.rename(old, path)
            raise
        disk.DISK.sync_folder(path.parent)
        if old is not None:
            remove_any(old)


def _read_entries(path: Path) -> dict[str, dict[str, Any]]:
    file = path / MANIFEST
    with readable(file):
        if not file.exists():
            raise _damaged(file, _("The file is missing."))
        data = read_regular(file, most_bytes=MOST_BYTES)
    try:
        manifest = parsed(data)
    except ValueError as fault:
        raise _damaged(file, reason_of(fault)) from fault
    if data != _manifest_bytes(manifest):
        # No digest covers the manifest itself, so it must be exactly what `seal` writes.
        raise _damaged(file, _("its content has changed since it was written"))
    entries = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(entries, dict) or manifest.get("version") != MANIFEST_VERSION:
        raise _damaged(file, _("it is not a manifest of version 1"))
    for name, entry in entries.items():
        if not _is_inside(name) or not isinstance(entry, dict):
            raise _damaged(file, _("the entry {name} is malformed").format(name=repr(name)))
    return entries


def _manifest_bytes(manifest: object) -> bytes:
    return (json.dumps(manifest, indent=1) + "\n").encode()


def _is_inside(name: str) -> bool:
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _damaged(file: Path, why: str) -> DataError:
    return DataError(
        _("{path} is damaged or incomplete.").format(path=file),
        why=as_sentence(why),
        fix=_("Use another copy of the folder {folder}, or make it again.").format(
            folder=file.parent
        ),
    )
