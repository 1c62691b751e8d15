"""One writer per folder: a lock file that a dead process never keeps.

The system's own lock (flock) is released with the process that held it. The file's content names
the holder, for the message, and is the lock itself on file systems without flock: a holder that no
longer runs, or whose number now belongs to another process, does not count.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path

from danlu.errors import UsageError
from danlu.files.os_errors import explained
from danlu.files.process import ProcessName, this_process
from danlu.language import _

LOCK_FILE = ".lock"
_NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class FolderLock:
    """Held from construction until `release`. Raises UsageError when another process holds it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._handle = self._acquire(folder)

    def release(self) -> None:
        """Unlock the folder. The empty file stays: removing it would race with the next holder."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            # A full or broken disk must not hide the error that ended the run.
            with suppress(OSError):
                os.ftruncate(handle, 0)
            os.close(handle)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def _acquire(self, folder: Path) -> int | None:
        while True:
            with explained(self._path):
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._take(handle, folder)
                if self._is_still_there(handle):
                    with explained(self._path):
                        _write_holder(handle)
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _take(self, handle: int, folder: Path) -> None:
        holder = _read_holder(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(folder, holder) from None
        except OSError as fault:
            if fault.errno not in _NO_FLOCK:
                with explained(self._path):
                    raise
            if holder is not None and holder.is_running() is not False:
                raise _in_use(folder, holder) from None

    def _is_still_there(self, handle: int) -> bool:
        # The folder may have been moved to the trash between open and lock.
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self._path))
        except FileNotFoundError:
            return False


def holder_of(folder: Path) -> ProcessName | None:
    """Name the process that holds a folder now; None where nobody does, as far as can be seen."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        holder = _read_holder(handle)
    finally:
        os.close(handle)
    return holder if holder is not None and holder.is_running() is not False else None


def _read_holder(handle: int) -> ProcessName | None:
    try:
        record = json.loads(os.pread(handle, 4096, 0))
        return ProcessName(pid=record["pid"], started=record["started"], host=record["host"])
    except (ValueError, TypeError, KeyError):
        return None


def _write_holder(handle: int) -> None:
    me = this_process()
    record = json.dumps({"pid": me.pid, "started": me.started, "host": me.host})
    os.ftruncate(handle, 0)
    os.pwrite(handle, record.encode(), 0)


def _in_use(folder: Path, holder: ProcessName | None) -> UsageError:
    pid = str(holder.pid) if holder else "?"
    return UsageError(
        _("The folder {path} is in use").format(path=folder),
        why=_("process {pid} is writing to it").format(pid=pid),
        fix=_("wait until it ends, stop it (kill {pid}), or choose another folder").format(pid=pid),
    )
