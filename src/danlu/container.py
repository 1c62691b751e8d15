"""What this process may use of its machine: processors, their time, memory, Ascend chips.

A container has limits that the machine's own numbers do not show. They stand in files of cgroups,
version 2 or 1. Sources: Linux's Documentation/admin-guide/cgroup-v2 (cpu.max, memory.max),
cgroup-v1/memory and scheduler/sched-bwc (cpu.cfs_quota_us); the nodes that a container needs, in
CANN's installation guide. Loads nothing but the standard library.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_DEV = Path("/dev")
# One for each chip; `vdavinci` is a part of one, lent to a virtual machine.
_CHIP_NODE = re.compile(r"v?davinci(\d+)")


def processors() -> set[int]:
    """Return the numbers of the processors that this thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def num_processors() -> int:
    """Count the processors that this thread may run on."""
    return len(processors())


def chip_nodes(dev: Path = _DEV) -> tuple[Path, ...]:
    """List the nodes of the Ascend chips that this process is given, by number."""
    try:
        found = [(_CHIP_NODE.fullmatch(name), name) for name in os.listdir(dev)]
    except OSError:
        return ()
    numbered = sorted((int(match[1]), name) for match, name in found if match)
    return tuple(dev / name for _number, name in numbered)


def processor_quota(root: Path = _CGROUPS) -> float | None:
    """Return how many processors' time the container may use; None without a limit."""
    limits = _words(root / "cpu.max") or [
        *_words(root / "cpu" / "cpu.cfs_quota_us"),
        *_words(root / "cpu" / "cpu.cfs_period_us"),
    ]
    # Without a limit the first is `max`, or -1.
    if len(limits) == 2 and all(word.isdigit() for word in limits):
        return int(limits[0]) / int(limits[1])
    return None


def memory_bytes(root: Path = _CGROUPS) -> int:
    """Return the container's limit of memory where there is one, else the machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, _usage = _limit_and_usage(root)
    return total if limit is None else min(total, limit)


def free_memory_bytes(root: Path = _CGROUPS) -> int | None:
    """Count the bytes that can still be taken, of the container and of the machine.

    Copies of files in memory count as free: they go when they must. None where nothing says it.
    """
    free = _labelled(Path("/proc/meminfo"), "MemAvailable:")
    found = [] if free is None else [free * 1024]
    limit, usage = _limit_and_usage(root)
    if limit is not None and usage is not None:
        found.append(max(0, limit - usage))
    return min(found, default=None)


def _limit_and_usage(root: Path) -> tuple[int | None, int | None]:
    """Return a container's limit of memory and what it uses, in bytes, as far as they are said."""
    version_1 = root / "memory"
    for folder, limit, usage in (
        (root, "memory.max", "memory.current"),
        (version_1, "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limits, usages = _words(folder / limit), _words(folder / usage)
        if limits and limits[0].isdigit():
            used = int(usages[0]) if usages else None
            files = _labelled(folder / "memory.stat", "inactive_file") or 0
            return int(limits[0]), None if used is None else used - files
    return None, None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _labelled(file: Path, label: str) -> int | None:
    """Return the number behind a label at the start of a line."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(label))
    except (OSError, ValueError, StopIteration):
        return None
