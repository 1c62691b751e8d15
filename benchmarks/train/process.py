"""Starts a side's process, waits for it and says how much memory it took.

This process must stay small and load no torch: until a child becomes its own program, its memory
is counted as ours, and the kernel's highest mark remembers that.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Finished:
    """started: on the clock `time.monotonic`; peak_bytes: the process's highest resident memory.

    cores_used: processor seconds by seconds; a low one means that others wanted the cores too.
    """

    started: float
    peak_bytes: int
    cores_used: float


def run(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
) -> Finished:
    """Run a command to its end in `folder`. Raises SystemExit with the end of its log."""
    with log.open("wb") as sink:
        started = time.monotonic()
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            _pid, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
        raise SystemExit("\n".join([*end, f"failed ({child.returncode}): {' '.join(command[:4])}"]))
    return Finished(
        started=started,
        peak_bytes=usage.ru_maxrss * 1024,
        cores_used=(usage.ru_utime + usage.ru_stime) / (time.monotonic() - started),
    )
