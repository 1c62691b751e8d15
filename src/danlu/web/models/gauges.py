"""What the machine has and uses, cheap enough to be asked every second, and what is wrong there."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from typing import Any

from danlu.container import free_memory_bytes, memory_bytes
from danlu.device.detect import Device
from danlu.device.memory import device_gauge, used_bytes
from danlu.errors import DanluError
from danlu.files.home import danlu_home
from danlu.files.os_errors import free_bytes
from danlu.hub.machine_facts import machine_facts
from danlu.hub.names import default_model
from danlu.language import _, chosen_language
from danlu.program import as_typed
from danlu.units import GIB, readable_bytes

Json = dict[str, Any]
# Less than this does not hold the next checkpoint of a small model.
_LITTLE_DISK = 2 * GIB


def gauges(device: Device) -> Json:
    """Return bytes: of the device, of the host's memory, of the disk that danlu's files are on."""
    home = danlu_home()
    place = home if home.exists() else home.parent
    total, free = memory_bytes(), free_memory_bytes()
    disk = shutil.disk_usage(place) if place.exists() else None
    return {
        "device": device.description,
        "kind": device.kind,
        # The host's memory is the device's where it has none of its own.
        "device_memory": device_gauge(device.torch_device),
        "host_memory": {
            "total": total,
            "used": None if free is None else max(0, total - free),
            "own": _resident(),
        },
        "disk": {
            "folder": str(home),
            "total": disk.total if disk else None,
            "used": disk.total - free_bytes(home) if disk else None,
        },
    }


def _resident() -> int:
    import torch

    return used_bytes(torch.device("cpu"))


def doctor() -> list[Json]:
    """List facts of this machine: name, value, whether it is good (None: only a fact), the fix."""
    facts = machine_facts()
    rows = [
        _fact(name, facts[name])
        for name in ("danlu", "torch", "python", "device", "precision", "memory")
    ]
    quota = facts["processor_quota"]
    threads = f"{facts['threads']} / {facts['processors']}"
    is_over = quota is not None and facts["threads"] > quota + 1
    rows.append(
        _fact(
            "threads",
            threads if quota is None else f"{threads} ({quota:g})",
            is_good=not is_over,
            why=_("More threads compute than the container gives processors.") if is_over else "",
            fix=as_typed(f"OMP_NUM_THREADS={max(1, int(quota or 1))} danlu web") if is_over else "",
        )
    )
    rows.append(_fact("waiting", facts["waiting"]))
    return [*rows, *_places(), _fact("language", chosen_language())]


def _places() -> Iterator[Json]:
    home = danlu_home()
    is_writable = os.access(home if home.exists() else home.parent, os.W_OK)
    yield _fact(
        "home",
        str(home),
        is_good=is_writable,
        why="" if is_writable else _("Your user may not write there."),
        fix="" if is_writable else as_typed("DANLU_HOME=FOLDER danlu web"),
    )
    free = free_bytes(home)
    has_room = free >= _LITTLE_DISK
    yield _fact(
        "disk",
        readable_bytes(free),
        is_good=has_room,
        why="" if has_room else _("That holds no model and few checkpoints."),
        fix="" if has_room else f"du -sh {shlex.quote(str(home))}/*",
    )
    try:
        yield _fact("default_model", default_model(), is_good=True)
    except DanluError as problem:
        yield _fact(
            "default_model", "-", is_good=False, why=problem.what, fix=as_typed(problem.fix)
        )


def _fact(
    name: str, value: object, *, is_good: bool | None = None, why: str = "", fix: str = ""
) -> Json:
    return {"name": name, "value": str(value), "good": is_good, "why": why, "fix": fix}
