"""Turns what the operating system says about a file into an error that a person can act on.

Knows errno values and free space. Must not know what the files mean.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu.errors import CapacityError, DanluError, DataError, EnvironmentFault, UsageError
from danlu.language import _
from danlu.reasons import system_reason
from danlu.units import readable_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# The medium, or the server of a network disk, no longer has the bytes.
_LOST = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ESTALE)
_BAD_PATH = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
# Paths that nothing can have, wherever they are looked for.
_IMPOSSIBLE = (errno.ENAMETOOLONG, errno.ELOOP)
_SHOWN_CHARACTERS = 40


def free_bytes(path: Path) -> int:
    """Count the bytes an ordinary user can still write at `path`, which need not exist yet."""
    place = Path(os.path.abspath(path))
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def require_free(path: Path, needed_bytes: int) -> None:
    """Refuse a write before it starts: raise CapacityError when `needed_bytes` do not fit."""
    if free_bytes(path) < needed_bytes:
        raise disk_full(path, needed_bytes)


def disk_full(path: Path, needed_bytes: int) -> CapacityError:
    """Describe a full disk; `needed_bytes` is what the write asks for, as far as known."""
    return CapacityError(
        _("No space left on the disk to write {path}.").format(path=path),
        why=_("At least {needed} are needed, {free} are free.").format(
            needed=readable_bytes(needed_bytes), free=readable_bytes(free_bytes(path))
        ),
        fix=_("Free some space, or choose a folder on another disk, and run the command again."),
    )


def explain(fault: OSError, path: Path, needed_bytes: int = 0) -> DanluError:
    """Choose the danlu error for a failed operation on `path`."""
    if fault.errno in _FULL:
        return disk_full(path, needed_bytes)
    kind: type[DanluError] = EnvironmentFault
    what = _("Cannot write {path}.").format(path=path)
    if fault.errno in _REFUSED:
        why = _("The system refuses: {detail}.")
        fix = _("Choose a folder you may write to, or change its permissions (ls -ld {folder}).")
    elif fault.errno in _BAD_PATH:
        kind = UsageError
        why = _("The path cannot be used: {detail}.")
        fix = _(
            "Give another path: here a folder is missing, or a file is where a folder should be."
        )
    else:
        why = _("The system reports: {detail}.")
        fix = _("Check the disk (df -h {folder}; dmesg | tail) and run the command again.")
    why = why.format(detail=system_reason(fault))
    return kind(what, why=why, fix=fix.format(folder=path.parent))


def impossible_name(fault: BaseException) -> UsageError | None:
    """Describe a name, looked for as a path, that nothing can have; None for another fault.

    A question in the place of a model, for instance: a part of a path has 255 bytes at most.
    """
    if not isinstance(fault, OSError) or fault.errno not in _IMPOSSIBLE:
        return None
    name = Path(os.fsdecode(fault.filename or "")).name
    shown = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
    return UsageError(
        _("There is nothing of the name {name}").format(name=shown),
        why=_("The path cannot be used: {detail}.").format(detail=system_reason(fault)),
        fix=_("Give the name of a model or a run, or the path of a file or folder."),
    )


@contextmanager
def explained(path: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn an OSError raised inside into CapacityError, EnvironmentFault or UsageError."""
    try:
        yield
    except OSError as fault:
        raise explain(fault, path, needed_bytes) from fault


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an OSError raised while reading a file that should be there into a danlu error.

    DataError where its bytes are lost, EnvironmentFault where the system refuses to give them.
    """
    try:
        yield
    except OSError as fault:
        what = _("Cannot read {path}.").format(path=path)
        why = _("The system reports: {detail}.").format(detail=system_reason(fault))
        if fault.errno in (*_LOST, *_BAD_PATH):
            fix = _("Check the disk (dmesg | tail), and use another copy of this file.")
            if fault.errno == errno.ENOENT:
                fix = _("Check its name, or use another copy of it.")
            raise DataError(what, why=why, fix=fix) from fault
        fix = _("Let your user read it (ls -l {path}) and run the command again.")
        raise EnvironmentFault(what, why=why, fix=fix.format(path=path)) from fault
