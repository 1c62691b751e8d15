"""Where danlu keeps what belongs to no single run: DANLU_HOME."""

from __future__ import annotations

import os
from pathlib import Path

# AutoDL's data disk: it survives the instance being switched off, the system disk is small.
_RENTED_DISK = Path("/root/autodl-tmp")


def danlu_home() -> Path:
    """Return DANLU_HOME, else danlu/ on AutoDL's data disk, else ~/.danlu; it may not exist yet."""
    chosen = os.environ.get("DANLU_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if is_rented():
        return _RENTED_DISK / "danlu"
    return Path.home() / ".danlu"


def is_rented() -> bool:
    """Tell whether this is a machine of AutoDL, by its data disk."""
    return rented_disk() is not None


def rented_disk() -> Path | None:
    """Return AutoDL's data disk where there is one."""
    return _RENTED_DISK if _RENTED_DISK.is_dir() else None
