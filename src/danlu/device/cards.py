"""The accelerators of this machine as their drivers' own tools show them, without torch.

For what must answer at once (`danlu info --banner`) or before there is a torch (the installer).
Training and serving ask torch instead (`danlu.device.detect`).

Sources: `nvidia-smi --help-query-gpu`; the tables of `npu-smi info` (two lines a chip; the name of
the second column and the spaces around `/` differ between releases); where CANN keeps its version,
`ascend_toolkit_install.info`, from its installation guide.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_MIB = 2**20
_PATIENCE_S = 10
_ASCEND = Path("/usr/local/Ascend")
# In a chip's first line: number, name, health; in its second: two pairs of MB, memory and HBM.
# Cards without HBM show their memory in the first pair.
_NPU_NAME = re.compile(r"^\|\s*\d+\s+(\S*[A-Za-z]\S*)\s*\|\s*(\w+)\s*\|")
_NPU_MEMORY = re.compile(r"\|\s*\d+\s+(\d+)\s*/\s*(\d+)(?:\s+(\d+)\s*/\s*(\d+))?\s*\|\s*$")
_VERSION = re.compile(r"^\s*version\s*=\s*\[?([^\s\]]+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One accelerator: its name, and its memory in bytes."""

    name: str
    memory_bytes: int
    used_bytes: int


@dataclass(frozen=True, kw_only=True)
class Cards:
    """The accelerators of one kind, in torch's word for it; none where kind is `cpu`.

    driver: the driver's version. toolkit: the name of what stands between driver and torch, and
    toolkit_version: of CUDA the newest that the driver runs, of CANN the one that is installed.
    A version is empty where nothing says it.
    """

    kind: str
    cards: tuple[Card, ...] = ()
    driver: str = ""
    toolkit: str = ""
    toolkit_version: str = ""


def find_cards() -> Cards:
    """Look for NPUs, then for CUDA cards, in the order in which `danlu.device.detect` chooses."""
    return _npus() or _cuda_cards() or Cards(kind="cpu")


def cards_elsewhere(kind: str) -> Cards:
    """Describe a kind of device that this machine lacks: for an image or a bundle that it makes.

    It has no cards and no driver; CANN is the one that is installed here.
    """
    if kind == "npu":
        return Cards(kind=kind, toolkit="CANN", toolkit_version=_cann_version())
    return Cards(kind=kind)


def cann_home() -> Path | None:
    """Return CANN's folder: the one whose set_env.sh was read, else where it is installed."""
    chosen = os.environ.get("ASCEND_HOME_PATH") or os.environ.get("ASCEND_TOOLKIT_HOME")
    if chosen:
        return Path(chosen)
    places = (_ASCEND / "cann", _ASCEND / "ascend-toolkit" / "latest")
    return next((place for place in places if place.is_dir()), None)


def _npus() -> Cards | None:
    table = _printed("npu-smi", "info")
    names = [found[1] for line in table.splitlines() if (found := _NPU_NAME.search(line))]
    memories = [found for line in table.splitlines() if (found := _NPU_MEMORY.search(line))]
    if not names or len(names) != len(memories):
        return None
    cards = []
    for name, memory in zip(names, memories, strict=True):
        pairs = [(int(memory[1]), int(memory[2])), (int(memory[3] or 0), int(memory[4] or 0))]
        used, total = max(pairs, key=lambda pair: pair[1])
        cards.append(Card(name=name, memory_bytes=total * _MIB, used_bytes=used * _MIB))
    return Cards(
        kind="npu",
        cards=tuple(cards),
        driver=_version_in(_ASCEND / "driver" / "version.info"),
        toolkit="CANN",
        toolkit_version=_cann_version(),
    )


def _cann_version() -> str:
    home = cann_home()
    if home is None:
        return ""
    places = (home / f"{platform.machine()}-linux", home)
    files = (place / "ascend_toolkit_install.info" for place in places)
    return next(filter(None, map(_version_in, (*files, home / "version.info"))), "")


def _cuda_cards() -> Cards | None:
    fields = "--query-gpu=driver_version,memory.total,memory.used,name"
    lines = _printed("nvidia-smi", fields, "--format=csv,noheader,nounits").splitlines()
    cards, drivers = [], []
    for line in lines:
        parts = [part.strip() for part in line.split(",", 3)]
        if len(parts) == 4 and parts[1].isdigit() and parts[2].isdigit():
            total, used = int(parts[1]) * _MIB, int(parts[2]) * _MIB
            cards.append(Card(name=parts[3], memory_bytes=total, used_bytes=used))
            drivers.append(parts[0])
    if not cards:
        return None
    newest = re.search(r"CUDA[\w ]*Version\s*:\s*([\d.]+)", _printed("nvidia-smi"))
    return Cards(
        kind="cuda",
        cards=tuple(cards),
        driver=drivers[0],
        toolkit="CUDA",
        toolkit_version=newest[1] if newest else "",
    )


def _printed(*command: str) -> str:
    """Return what a driver's tool prints; nothing where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def _version_in(file: Path) -> str:
    try:
        found = _VERSION.search(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""
