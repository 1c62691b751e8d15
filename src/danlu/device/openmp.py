"""OpenMP's threads: they spin while they have the processors to themselves; one computes alone.

torch computes on the CPU with a pool of OpenMP threads. GNU's OpenMP (libgomp) lets them spin for
some milliseconds while they wait, which is the fastest way alone. Beside any other program each
wait then costs a time slice of the system, and a step takes three times as long; in a container
with a quota, spinning uses it up. Sleeping at once is right there, but costs up to half of the
speed alone. So a thread watches how long ours wait for a processor, and switches.

libgomp reads its settings once, but it has a switch: while it manages more threads than there are
processors, they spin for 100 rounds instead of 300,000. A team that does nothing, held by a thread
of ours, makes it so. The number of threads that compute does not change, so no result does.
Sources: libgomp's manual (GOMP_SPINCOUNT) and its config/linux/wait.h. docs/performance.md holds
what was measured.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from danlu.environment import is_watched, waited_ns

_PERIOD_S = 0.5
# Of each second, together: alone 0.02 at most, beside one busy core 0.16 to 0.78.
_CROWDED = 0.1


@cache
def watch_waiting() -> None:
    """Let threads sleep early beside other programs, from now on; once for this process.

    Not where the user has said how they wait, nor with another OpenMP than GNU's.
    """
    if is_watched() and (library := _own_library()) is not None:
        Watch(IdleTeam(library)).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let this thread compute alone, without changing how many threads others have.

    For short work: beside other programs threads wait longer for each other than it takes.
    `torch.set_num_threads` would: a thread that asks torch for the first time meanwhile computes
    with one for good (aten/src/ATen/ParallelOpenMP.cpp). With another OpenMP than GNU's nothing
    changes.
    """
    library, count = _own_library(), torch.get_num_threads()
    if library is None:
        yield
        return
    library.omp_set_num_threads(1)
    try:
        yield
    finally:
        library.omp_set_num_threads(count)


class IdleTeam:
    """A team of OpenMP's threads that does nothing; while it is there, all others sleep early."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._parallel = library.GOMP_parallel
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None
        self._release: threading.Event | None = None

    @property
    def is_there(self) -> bool:
        """Whether the others sleep early."""
        return self._release is not None

    def be_there(self, wanted: bool) -> None:
        """Make the team, or let it go."""
        if wanted and self._release is None:
            self._release = threading.Event()
            threading.Thread(
                target=self._hold, args=(self._release,), name="openmp-team", daemon=True
            ).start()
        elif not wanted and self._release is not None:
            self._release.set()
            self._release = None

    def _hold(self, release: threading.Event) -> None:
        """Keep a team until the release; it belongs to this thread and ends with it."""
        spare = len(os.sched_getaffinity(0)) - torch.get_num_threads()
        # What its threads call has to be C, and to do nothing: free(NULL).
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        self._parallel(nothing, None, max(2, spare + 2), 0)
        release.wait()


class Watch(threading.Thread):
    """Makes threads sleep early while others want the processors too."""

    def __init__(self, team: IdleTeam) -> None:
        super().__init__(name="openmp-watch", daemon=True)
        self._team = team

    def run(self) -> None:
        """Look twice a second, for as long as the process lives."""
        last, last_s = waited_ns(), time.monotonic()
        while True:
            time.sleep(_PERIOD_S)
            now, now_s = waited_ns(), time.monotonic()
            crowded = is_crowded(last, now, seconds=now_s - last_s)
            self._team.be_there(crowded and torch.get_num_threads() > 1)
            last, last_s = now, now_s


def is_crowded(last: Mapping[int, int], now: Mapping[int, int], *, seconds: float) -> bool:
    """Whether threads had to wait for a processor: nanoseconds so far, by thread, then and now."""
    waited = sum(nanoseconds - last.get(thread, 0) for thread, nanoseconds in now.items())
    return waited > _CROWDED * seconds * 1e9


@cache
def _own_library() -> ctypes.CDLL | None:
    """Find it once: trials of variants ask for it again and again."""
    return libgomp()


def libgomp(maps: Path = Path("/proc/self/maps")) -> ctypes.CDLL | None:
    """Return the libgomp that torch has loaded; it brings its own.

    Source of the form of a line, whose sixth part is a path and may hold spaces: proc_pid_maps(5).
    None where it cannot be told: nothing must fail for want of it.
    """
    try:
        lines = maps.read_text("utf-8", "surrogateescape").splitlines()
        parts = [line.split(maxsplit=5) for line in lines if "libgomp" in line]
        paths = {part[5] for part in parts if len(part) == 6 and "libgomp" in Path(part[5]).name}
        return ctypes.CDLL(paths.pop()) if len(paths) == 1 else None
    except OSError:
        return None
