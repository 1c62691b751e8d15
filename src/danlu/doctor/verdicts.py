"""What the doctor says of one thing: as it should be, worth knowing, or wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["green", "hint", "red"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    name: for programs, the name of the function that looked. found: what there is, and why it is
    wrong. repair: the command or edit that mends it; a red one always has it.
    """

    name: str = ""
    state: State
    found: str
    repair: str = ""


def green(found: str) -> Check:
    """It is as it should be."""
    return Check(state="green", found=found)


def hint(found: str, repair: str = "") -> Check:
    """It works, and its user should know something."""
    return Check(state="hint", found=found, repair=repair)


def red(found: str, repair: str) -> Check:
    """It is wrong."""
    return Check(state="red", found=found, repair=repair)
