"""Names of unfinished work, and its removal once the writer is dead.

`.NAME.KIND-PID-STARTED-HOST-NUMBER` lies beside NAME. Kinds: `part` an unfinished file, `draft` an
unfinished folder, `old` the folder that a draft is about to replace, `gone` one being removed.
A writer keeps its parts and drafts locked (flock): containers can share a disk and a host's name.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from danlu.files import disk
from danlu.files.lock import is_locked
from danlu.files.os_errors import explained
from danlu.files.process import ProcessName, this_process

Kind = Literal["part", "draft", "old", "gone"]
_NAME = re.compile(r"\.(.+)\.(part|draft|old|gone)-(\d+)-(\d+)-(\d+)-\d+")
_number = itertools.count()
# Whether a process of another host (or container) still lives cannot be seen from here.
FOREIGN_AGE_S = 24 * 3600


def temporary_path(path: Path, kind: Kind) -> Path:
    """Name a place beside `path` that belongs to this process."""
    me = this_process()
    name = f".{path.name}.{kind}-{me.pid}-{me.started}-{me.host}-{next(_number)}"
    return path.with_name(name)


def is_leftover(name: str) -> bool:
    """Tell whether a file name is one of unfinished work."""
    return _NAME.fullmatch(name) is not None


def clean_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what dead writers left in `folder`, or only their work on `name`.

    A folder set aside just before a crash, whose replacement never came, gets its name back.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or name not in (None, match[1]) or not _is_dead(path, match):
            continue
        with explained(path):
            if match[2] == "old" and not (folder / match[1]).exists():
                disk.DISK.rename(path, folder / match[1])
            else:
                remove_any(path)


def remove_any(path: Path) -> None:
    """Remove a file, a link or a folder. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        disk.DISK.remove_tree(path)
    else:
        disk.DISK.remove(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep a file or folder locked inside the block, where the file system has locks."""
    try:
        handle = _opened(path)
    except OSError:
        yield  # the writer's own operation will say what is wrong
        return
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_locked(path: Path) -> bool:
    try:
        handle = _opened(path)
    except OSError:
        return False
    try:
        return is_locked(handle)
    finally:
        os.close(handle)


def _is_dead(path: Path, match: re.Match[str]) -> bool:
    writer = ProcessName(pid=int(match[3]), started=int(match[4]), host=int(match[5]))
    running = writer.is_running()
    if not running and _is_locked(path):
        return False
    if running is None:
        return time.time() - path.lstat().st_mtime > FOREIGN_AGE_S
    return not running
