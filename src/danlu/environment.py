"""What stands in the process's environment before torch is loaded, unless the user has set it.

torch computes on the CPU with a pool of OpenMP threads. How they wait for each other is watched
while they compute (`danlu.device.openmp`); where the system does not tell what that needs, it is
set here once. Source of the names: the manual of libgomp.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from danlu.container import num_processors, processor_quota

# Rounds for which a thread spins before it sleeps, where nobody watches: between the best alone and
# the best beside other programs. docs/performance.md holds what was measured.
SPIN_ROUNDS = 1000
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_TASKS = Path("/proc/self/task")


def prepare_environment(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set how many threads compute, and how they wait; what the user has set stays."""
    if is_watched(environ) and not waited_ns():
        environ["GOMP_SPINCOUNT"] = str(SPIN_ROUNDS)
    quota = processor_quota()
    if quota is not None and quota < num_processors():
        environ.setdefault("OMP_NUM_THREADS", str(max(1, int(quota))))


def is_watched(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether nothing says how threads wait, so that it may change while they compute."""
    return not any(name in environ for name in _WAITING)


def waiting(environ: Mapping[str, str] = os.environ) -> str:
    """Return the variables that say how threads wait for each other; "" where it is watched."""
    return " ".join(f"{name}={environ[name]}" for name in _WAITING if name in environ)


def waited_ns(tasks: Path = _TASKS) -> dict[int, int]:
    """Return how long each thread of this process has waited for a processor, in nanoseconds.

    Empty where the system does not count it. Source: Linux's Documentation/scheduler/sched-stats.
    """
    waited = {}
    try:
        for task in tasks.iterdir():
            ran, waits, _slices = (task / "schedstat").read_text("ascii").split()
            if int(ran):
                waited[int(task.name)] = int(waits)
    except (OSError, ValueError):  # a thread that has just ended, or no such file
        pass
    return waited
