"""Opening what others have prepared: regular files only, and links to them.

A pipe or a hanging device in a file's place would stop the program without a word, and /dev/zero
would fill the memory. Knows kinds of files; must not know what the bytes mean.
"""

from __future__ import annotations

import os
import shlex
import stat
from io import BufferedReader
from pathlib import Path

from danlu.errors import DataError
from danlu.language import _


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading; never waits for a writer.

    Raises DataError for a pipe, a device, a socket or a folder, OSError as `open` does.
    """
    return open(path, "rb", opener=_checked)


def _checked(path: str, flags: int) -> int:
    # Without O_NONBLOCK the opening of a pipe waits; for a regular file the flag means nothing.
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    raise _not_regular(Path(path), mode)


def read_regular(path: Path, *, most_bytes: int) -> bytes:
    """Return the content of a regular file. Raises DataError for a larger one too, OSError."""
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) <= most_bytes:
        return content
    raise DataError(
        _("Cannot read {path}.").format(path=path),
        why=_("It is larger than {size} MiB, the most that such a file may hold.").format(
            size=most_bytes >> 20
        ),
        fix=_("Use another copy of this file, from where it was made."),
    )


def _not_regular(path: Path, mode: int) -> DataError:
    kinds = {
        stat.S_IFIFO: _("a named pipe"),
        stat.S_IFCHR: _("a device"),
        stat.S_IFBLK: _("a device"),
        stat.S_IFSOCK: _("a socket"),
        stat.S_IFDIR: _("a folder"),
    }
    return DataError(
        _("Cannot read {path}.").format(path=path),
        why=_("It is {kind}, not a file.").format(kind=kinds.get(stat.S_IFMT(mode), "?")),
        fix=_("Put a file in its place: ls -lL {path}").format(path=shlex.quote(str(path))),
    )
