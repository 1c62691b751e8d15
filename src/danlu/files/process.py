"""Who wrote this? Processes told apart by number, start time and host.

A process number alone is not enough: numbers are used again. Knows /proc; knows nothing of what
the process was writing.
"""

from __future__ import annotations

import os
import socket
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ProcessName:
    """One process on one host. `started` is in clock ticks since boot, 0 where unknown."""

    pid: int
    started: int
    host: int

    def is_running(self) -> bool | None:
        """Tell whether it still runs; None when it belongs to another host."""
        if self.host != _host():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # alive, and somebody else's
        return self.started == _start_ticks(self.pid)

    def has_open(self, file: os.stat_result) -> bool:
        """Tell whether the running process has a file open, or cannot be looked into."""
        place = f"/proc/{self.pid}/fd"
        try:
            handles = os.listdir(place)
        except PermissionError:
            return True  # somebody else's, whom nobody here could signal
        except OSError:
            return False
        for handle in handles:
            with suppress(OSError):
                if os.path.samestat(os.stat(f"{place}/{handle}"), file):
                    return True
        return False


def this_process() -> ProcessName:
    """Name the calling process."""
    return process_named(os.getpid())


def process_named(pid: int) -> ProcessName:
    """Name a process of this host that runs."""
    return ProcessName(pid=pid, started=_start_ticks(pid), host=_host())


def _host() -> int:
    return zlib.crc32(socket.gethostname().encode())


def _start_ticks(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    # The command name, in parentheses, may hold anything; field 22 is counted after it (proc(5)).
    return int(text.rpartition(")")[2].split()[19])
