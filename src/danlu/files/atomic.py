"""Single files: written whole or not at all, appended to, linked.

Knows how to survive a crash or a full disk. Must not know what the bytes mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from danlu.files import disk
from danlu.files.disk import Bytes
from danlu.files.leftovers import clean_leftovers, locked, temporary_path
from danlu.files.os_errors import explained, readable
from danlu.files.regular import open_regular

COPY_BYTES = 1 << 20
Content = Bytes | str | Iterable[Bytes]


def atomic_write(path: Path, content: Content) -> None:
    """Write a file so that `path` holds either what it held before or all of `content`.

    Text is stored as UTF-8. Raises CapacityError, EnvironmentFault or UsageError; nothing is left
    behind then.
    """
    clean_leftovers(path.parent, path.name)
    part = temporary_path(path, "part")
    with removed_on_failure(part):
        with explained(path):
            file = disk.DISK.create(part)
        with file, locked(part):
            written = 0
            for piece in pieces(content):
                with explained(path, written + len(piece)):
                    disk.DISK.write(file, piece)
                written += len(piece)
            with explained(path, written):
                disk.DISK.sync(file)
        with explained(path):
            disk.DISK.rename(part, path)
    with explained(path):
        disk.DISK.sync_folder(path.parent)


def append_line(path: Path, line: str, *, private: bool = False) -> None:
    """Add one line of text to a file, complete in one write, visible to readers at once.

    private: nobody but its owner may read it.
    """
    data = f"{line}\n".encode()
    with explained(path, len(data)):
        disk.DISK.append(path, data, private=private)


def cut_torn_line(path: Path) -> None:
    """Remove what stands behind the last end of a line: its writer died in the middle of it."""
    with explained(path), open(path, "r+b", buffering=0) as file:
        place = file.seek(0, os.SEEK_END)
        while place > 0:
            start = max(0, place - COPY_BYTES)
            file.seek(start)
            found = file.read(place - start).rfind(b"\n")
            if found >= 0:
                disk.DISK.cut(file, start + found + 1)
                return
            place = start
        disk.DISK.cut(file, 0)


def sync_lines(path: Path) -> None:
    """Return once every line added to a file is on the medium; a missing file has none."""
    if path.exists():
        with explained(path):
            disk.DISK.sync_file(path)
            disk.DISK.sync_folder(path.parent)


def link_or_copy(target: Path, link: Path) -> None:
    """Make `link` a relative link to the file `target`; a copy where links are impossible.

    An existing file at `link` is replaced in one stroke.
    """
    clean_leftovers(link.parent, link.name)
    part = temporary_path(link, "part")
    with removed_on_failure(part):
        try:
            disk.DISK.link(os.path.relpath(target, link.parent), part)
        except OSError:
            atomic_write(link, read_in_pieces(target))
            return
        with explained(link):
            disk.DISK.rename(part, link)
    with explained(link):
        disk.DISK.sync_folder(link.parent)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, durably."""
    with explained(path):
        missing = [place for place in (path, *path.parents) if not place.exists()]
        disk.DISK.make_folder(path)
        # An existing folder too: the process that made it may have died before it was durable.
        for place in missing or [path]:
            disk.DISK.sync_folder(place.parent)


def read_in_pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in pieces of 1 MiB. Raises DataError or EnvironmentFault."""
    with readable(path), open_regular(path) as file:
        while piece := file.read(COPY_BYTES):
            yield piece


def pieces(content: Content) -> Iterator[memoryview]:
    """Yield any accepted content as flat byte views."""
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        content = (content,)
    for piece in content:
        yield memoryview(piece).cast("B")


@contextmanager
def removed_on_failure(part: Path) -> Iterator[None]:
    """Remove an unfinished file when the body fails for whatever reason, Ctrl-C included."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            disk.DISK.remove(part)
        raise
