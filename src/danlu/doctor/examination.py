"""All that the doctor looks at, in order, and what happens when looking itself fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from danlu.doctor import ascend_checks as ascend
from danlu.doctor import machine_checks as machine
from danlu.doctor import torch_checks as torch
from danlu.doctor.surroundings import Surroundings
from danlu.doctor.verdicts import Check, red
from danlu.language import _

Look = Callable[[Surroundings], "Check | None"]
OF_ASCEND: tuple[Look, ...] = (
    *(ascend.chip, ascend.hbm, ascend.driver, ascend.firmware, ascend.cann, ascend.nnal),
    *(ascend.torch_npu, ascend.npu, ascend.settings),
)
OF_ALL: tuple[Look, ...] = (
    *(torch.gpu, torch.torch, torch.torch_npu_alone, torch.cpu),
    *(machine.python, machine.architecture, machine.memory, machine.shared_memory),
    *(machine.disk, machine.data_disk, machine.ports, machine.locale, machine.variables),
)
# How each is called, by the name of its function; some names are the same in every language.
CHECK_NAMES = {
    "chip": "chip",
    "driver": "driver",
    "firmware": "firmware",
    "settings": "its variables",
    "architecture": "architecture",
    "memory": "memory",
    "shared_memory": "shared memory",
    "disk": "disk",
    "data_disk": "data disk",
    "ports": "ports",
    "locale": "encoding",
    "variables": "set by danlu",
    # Of the self-test, whose operations have the same names in every language.
    "selftest": "self-test",
    "device": "device",
    "training": "training",
    "resuming": "resuming",
    "answering": "answering",
    "integrity": "integrity",
    "published": "published",
}
_SAME_NAMES = {
    "hbm": "HBM",
    "cann": "CANN",
    "nnal": "NNAL",
    "npu": "NPU",
    "gpu": "GPU",
    "cpu": "CPU",
    "python": "Python",
    "torch_npu_alone": "torch_npu",
}


def shown_name(check: Check) -> str:
    """Name a check for people."""
    name = check.name
    return _(CHECK_NAMES[name]) if name in CHECK_NAMES else _SAME_NAMES.get(name, name)


def examine(found: Surroundings) -> list[Check]:
    """Look at everything; of Ascend only where there is any."""
    looks = (*(OF_ASCEND if found.has_ascend else ()), *OF_ALL)
    checks = (_asked(look, found) for look in looks)
    return [check for check in checks if check is not None]


def _asked(look: Look, found: Surroundings) -> Check | None:
    """Return what one check says; one that fails must not hide the others."""
    name = look.__name__
    try:
        check = look(found)
    except Exception as fault:
        words = f"{type(fault).__name__}: {fault}".strip()
        text = _("This could not be looked at: {words}").format(words=words)
        check = red(text, _("Report it with what this prints: danlu doctor --json"))
    return None if check is None else replace(check, name=name)
