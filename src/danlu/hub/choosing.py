"""The device that a command asked for, and what its user must know of that choice.

Rooms that ask again and again, such as the studio's gauges, take `danlu.device.detect.select`.
"""

from __future__ import annotations

from functools import cache

import torch

from danlu.device.ascend.causes import NpuTrouble
from danlu.device.cards import unused_cards
from danlu.device.detect import Device, passed_over, select
from danlu.errors import EnvironmentFault
from danlu.language import _, joined
from danlu.moving_line import say_beside
from danlu.program import as_typed


def chosen_device(kind: str = "auto") -> Device:
    """Choose the device; say once a process where it is not the NPU or card that is here.

    Raises what `select` raises.
    """
    device = select(kind)
    if kind == "auto" and (trouble := passed_over()) is not None:
        _warn(trouble, device.kind)
    if kind == "auto" and not device.has_host and (line := unused_line()):
        _warn_of_cards(line)
    return device


def training_device(kind: str = "auto") -> Device:
    """Choose the device as `chosen_device` does; EnvironmentFault for one that cannot train."""
    device = chosen_device(kind)
    if device.no_training:
        raise EnvironmentFault(
            _("{device} cannot train.").format(device=device.description),
            why=device.no_training,
            fix=_("Train on a 910B or 910C, or use --device cpu"),
        )
    return device


@cache
def _warn(trouble: NpuTrouble, kind: str) -> None:
    say_beside(
        joined(
            _("ATTENTION: no NPU is used, but the {kind}.").format(kind=kind.upper()),
            trouble_line(trouble),
        )
    )


def trouble_line(trouble: NpuTrouble) -> str:
    """Write in one line why no NPU can be used, and what repairs it."""
    return joined(trouble.reason, _("To repair: {fix}").format(fix=trouble.fix))


@cache
def unused_line() -> str:
    """Say in one line which cards torch does not see, and what looks into it; "" where none are."""
    cards = unused_cards()
    if cards is None:
        return ""
    seen = _("nvidia-smi shows {names}, and torch {version} sees none.")
    return joined(
        seen.format(names=cards.names, version=torch.__version__),
        _("To repair: {fix}").format(fix=as_typed("danlu doctor")),
    )


@cache
def _warn_of_cards(line: str) -> None:
    say_beside(joined(_("ATTENTION: no GPU is used, but the CPU."), line))
