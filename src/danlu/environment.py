"""What stands in the process's environment before torch is loaded, unless the user has set it.

torch computes on the CPU with a pool of OpenMP threads. GNU's OpenMP lets them spin while they wait
for each other, and beside any other program each wait then costs a time slice of the system: steps
take three times as long. A container's quota of processor time is worse: spinning uses it up.
Source of the names: the manual of libgomp. docs/performance.md holds what was measured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from danlu.container import num_processors, processor_quota

# Rounds for which a thread spins before it sleeps.
SPIN_ROUNDS = 1000
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def prepare_environment(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set how many threads compute, and how they wait; what the user has set stays."""
    if not any(name in environ for name in _WAITING):
        environ["GOMP_SPINCOUNT"] = str(SPIN_ROUNDS)
    quota = processor_quota()
    if quota is not None and quota < num_processors():
        environ.setdefault("OMP_NUM_THREADS", str(max(1, int(quota))))


def waiting(environ: Mapping[str, str] = os.environ) -> str:
    """Say how threads wait for each other: the variables that decide it."""
    return " ".join(f"{name}={environ[name]}" for name in _WAITING if name in environ)
