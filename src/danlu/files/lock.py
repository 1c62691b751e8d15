"""One writer per folder, or per file of it: a lock file that a dead process never keeps.

The system's own lock (flock) is released with the process that held it. The file's content names
the holder, for the message, and is the lock itself on file systems without flock: a holder that no
longer runs, or whose number now belongs to another process, does not count. Anyone may write such a
text; whom it names is believed only where that process has this very file open.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import DanluError, UsageError
from danlu.files.os_errors import explain, explained
from danlu.files.process import ProcessName, this_process
from danlu.language import _

LOCK_FILE = ".lock"
_NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class FolderLock:
    """Held from construction until `release`. Raises UsageError when another process holds it.

    file: the name of the one file in the folder that is held, instead of the folder.
    """

    def __init__(self, folder: Path, file: str = "") -> None:
        self._path = folder / (f".{file}.lock" if file else LOCK_FILE)
        self._handle = self._acquire(folder / file)

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

    def _acquire(self, held: Path) -> int | None:
        while True:
            handle = _opened(self._path, os.O_RDWR | os.O_CREAT)
            try:
                self._take(handle, held)
                if self._is_still_there(handle):
                    with explained(self._path):
                        write_holder(handle, this_process())
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _take(self, handle: int, held: Path) -> None:
        holder = _read_holder(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(held, _holder(handle)) from None
        except OSError as fault:
            if fault.errno not in _NO_FLOCK:
                with explained(self._path):
                    raise
            if holder is not None and holder.is_running() is not False:
                raise _in_use(held, Holder(pid=holder.pid)) from None

    def _is_still_there(self, handle: int) -> bool:
        # The folder may have been moved to the trash between open and lock.
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self._path))
        except FileNotFoundError:
            return False


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a folder. pid: None where it is no process that can be seen from here."""

    pid: int | None


def holder_of(folder: Path) -> Holder | None:
    """Tell who holds a folder now; None where nobody does, as far as can be seen."""
    return holder_in(folder / LOCK_FILE)


def holder_in(file: Path) -> Holder | None:
    """Tell who holds a lock file now, as `holder_of` does."""
    try:
        handle = _opened(file, os.O_RDONLY)
    except DanluError:
        return None
    try:
        return _holder(handle)
    finally:
        os.close(handle)


def _holder(handle: int) -> Holder | None:
    named = _read_holder(handle)
    if named is None:
        return None
    if named.is_running() and named.has_open(os.fstat(handle)):
        return Holder(pid=named.pid)
    return Holder(pid=None) if is_locked(handle) else None


def is_locked(handle: int) -> bool:
    """Tell whether another process has locked an open file or folder (flock)."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(handle, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:
        return False  # this file system has no locks
    return False


def _opened(path: Path, flags: int) -> int:
    """Open a lock file. Whoever can write to a shared folder could make it a link to any file."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as fault:
        if fault.errno == errno.ELOOP:
            raise _foreign_lock(path) from fault
        raise explain(fault, path) from fault
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise _foreign_lock(path)


def _foreign_lock(path: Path) -> UsageError:
    return UsageError(
        _("The folder {path} is not used.").format(path=path.parent),
        why=_("Its lock file {name} is a link or no file; danlu did not make it.").format(
            name=path.name
        ),
        fix=f"rm {shlex.quote(str(path))}",
    )


def _read_holder(handle: int) -> ProcessName | None:
    try:
        record = json.loads(os.pread(handle, 4096, 0))
        numbers = {name: record[name] for name in ("pid", "started", "host")}
        # Process 0 and the negative ones are groups.
        if all(type(number) is int for number in numbers.values()) and 0 < numbers["pid"] < 2**31:
            return ProcessName(**numbers)
        return None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def write_holder(handle: int, holder: ProcessName) -> None:
    """Write into an open lock file who holds it. Raises OSError."""
    record = json.dumps({"pid": holder.pid, "started": holder.started, "host": holder.host})
    os.ftruncate(handle, 0)
    os.pwrite(handle, record.encode(), 0)


def _in_use(held: Path, holder: Holder | None) -> UsageError:
    what = _("{path} is in use.").format(path=held)
    if holder is None or holder.pid is None:
        return UsageError(
            what,
            why=_("A process is writing to it that cannot be seen from here."),
            fix=_("Wait until it ends, stop it where it runs, or choose another folder."),
        )
    return UsageError(
        what,
        why=_("Process {pid} is writing to it.").format(pid=holder.pid),
        fix=_("Wait until it ends, stop it (kill {pid}), or choose another folder.").format(
            pid=holder.pid
        ),
    )
