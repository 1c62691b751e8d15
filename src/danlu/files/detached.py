"""Processes that outlive whoever has started them, with what they print in a file.

A lock file says whether one still runs. It is locked before the process begins, and the process
inherits the lock: it is held from the first moment until the process is gone, however it ends.
Whoever asks needs neither the process's number nor to be its parent. Where a file system has no
locks, the number in the file counts, as for folders (`files/lock.py`).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from danlu.environment import users_environment
from danlu.files import disk
from danlu.files.lock import Holder, holder_in, is_locked, write_holder
from danlu.files.os_errors import explained
from danlu.files.process import process_named


def start_detached(
    command: Sequence[str], *, log: Path, lock: Path, cwd: Path | None = None
) -> int:
    """Start a process in a session of its own; its output is added to `log`. Return its number.

    It gets no signal of this terminal, and goes on when this process ends. Its environment is the
    user's, without what danlu has set for itself. Raises BlockingIOError
    where the lock is held, and what a failed write raises.
    """
    with explained(lock):
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _take(held)
        with explained(log), disk.DISK.append_only(log) as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=users_environment(),
                start_new_session=True,
                pass_fds=(held,),
            )
        with suppress(OSError):
            write_holder(held, process_named(process.pid))
    finally:
        os.close(held)
    # Somebody has to wait for it, or its number stays taken after its end.
    threading.Thread(target=process.wait, name=f"process {process.pid}", daemon=True).start()
    return process.pid


def holder_of_lock(lock: Path) -> Holder | None:
    """Tell which process runs under a lock; None where it has ended, or never began."""
    found = holder_in(lock)
    if found is not None:
        return found
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return Holder(pid=None) if is_locked(handle) else None
    finally:
        os.close(handle)


def _take(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # this file system has no locks
