"""What the doctor asks of any machine: Python, memory, disks, ports, text."""

from __future__ import annotations

import codecs
import platform
import shlex
from pathlib import Path

from danlu.doctor.surroundings import Surroundings
from danlu.doctor.verdicts import Check, green, hint, red
from danlu.environment import set_here
from danlu.language import _
from danlu.units import GIB, readable_bytes

_OLDEST_PYTHON = (3, 10)
# The dependencies have wheels for these.
_ARCHITECTURES = ("x86_64", "aarch64")
_LITTLE_MEMORY = GIB
# Less than this does not hold the next checkpoint of a small model; a Qwen3-8B takes 16 GB.
_LITTLE_DISK, _DISK_OF_A_MODEL = 2 * GIB, 20 * GIB
# Docker gives 64 MB.
_LITTLE_SHARED = GIB
# AutoDL shows these two to the world.
_PORTS = (6006, 6008)


def python(found: Surroundings) -> Check:
    """Whether the Python is one that danlu runs with."""
    version = ".".join(map(str, found.python))
    if found.python[:2] < _OLDEST_PYTHON:
        text = _("{version}; danlu needs Python 3.10 or newer.").format(version=version)
        return red(text, "PYTHON=python3.11 bash scripts/install.sh")
    return green(version)


def architecture(found: Surroundings) -> Check:
    """Whether there are packages for this processor."""
    if found.architecture not in _ARCHITECTURES:
        text = _("{name}; the packages are made for {names}.").format(
            name=found.architecture, names=", ".join(_ARCHITECTURES)
        )
        return red(text, _("Take a machine with one of these processors."))
    return green(f"{found.architecture}, {platform.system()} {platform.release()}")


def memory(found: Surroundings) -> Check:
    """How much memory is left, of the container's limit where there is one."""
    free, total = found.memory()
    if free is None:
        return green(readable_bytes(total))
    text = _free_of(free, total)
    return red(text, "ps aux --sort=-rss | head") if free < _LITTLE_MEMORY else green(text)


def shared_memory(found: Surroundings) -> Check:
    """How large the memory is through which processes exchange data; containers get little."""
    _free, total = found.space(found.shared)
    if total >= _LITTLE_SHARED:
        return green(readable_bytes(total))
    text = _("{size} in {folder}; vLLM and several devices need more.").format(
        size=readable_bytes(total), folder=found.shared
    )
    return hint(text, _("Start the container with docker run {options}").format(
        options="--shm-size=16g"
    ))  # fmt: skip


def disk(found: Surroundings) -> Check:
    """How much room there is where danlu keeps models."""
    return _room(found, found.home)


def data_disk(found: Surroundings) -> Check | None:
    """Whether a rented machine's data disk is used: the system's is small, and lost with it."""
    if found.rented is None:
        return None
    if not found.home.is_relative_to(found.rented):
        text = _("{folder} is not on the data disk {disk}.").format(
            folder=found.home, disk=found.rented
        )
        return hint(text, f"export DANLU_HOME={shlex.quote(str(found.rented / 'danlu'))}")
    return _room(found, found.rented)


def _room(found: Surroundings, folder: Path) -> Check:
    free, total = found.space(folder)
    text = _("{space}: {folder}").format(folder=folder, space=_free_of(free, total))
    repair = f"du -sh {shlex.quote(str(folder))}/* | sort -h | tail"
    if free < _LITTLE_DISK:
        return red(text, repair)
    return hint(text, repair) if free < _DISK_OF_A_MODEL else green(text)


def ports(found: Surroundings) -> Check:
    """Whether the ports are free that AutoDL shows to the world."""
    taken = [port for port in _PORTS if not found.is_port_free(port)]
    if not taken:
        return green(_("{ports} are free.").format(ports=", ".join(map(str, _PORTS))))
    names = ", ".join(map(str, taken))
    text = _("{ports} in use; TensorBoard takes 6006.").format(ports=names)
    return hint(text, f"ss -ltnp 'sport = :{taken[0]}'")


def locale(found: Surroundings) -> Check:
    """Whether text is UTF-8 here, so that a terminal can show Chinese."""
    if codecs.lookup(found.encoding).name != "utf-8":
        text = _("{encoding}; danlu reads and writes UTF-8.").format(encoding=found.encoding)
        return red(text, "export LC_ALL=C.UTF-8")
    return green("UTF-8")


def variables(_found: Surroundings) -> Check | None:
    """Which variables danlu has set for torch, since nobody else had."""
    own = set_here()
    return green(" ".join(f"{name}={value}" for name, value in own.items())) if own else None


def _free_of(free: int, total: int) -> str:
    return _("{free} free of {total}").format(
        free=readable_bytes(free), total=readable_bytes(total)
    )
