"""The accelerators of this machine as their drivers' own tools show them, without torch.

For what must answer at once (`danlu info --banner`) or before there is a torch (the installer).
Training and serving ask torch instead (`danlu.device.detect`).

Sources: `nvidia-smi --help-query-gpu`; the tables of `npu-smi info` (two lines a chip; the name of
the second column and the spaces around `/` differ between releases).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass

from danlu.device.ascend.machine import AscendMachine
from danlu.device.nvidia_cards import hidden_cards

_MIB = 2**20
_PATIENCE_S = 10
# In a chip's first line: number, name, health; in its second: two pairs of MB, memory and HBM.
# Cards without HBM show their memory in the first pair.
_NPU_NAME = re.compile(r"^\|\s*\d+\s+(\S*[A-Za-z]\S*)\s*\|\s*(\w+)\s*\|")
_NPU_MEMORY = re.compile(r"\|\s*\d+\s+(\d+)\s*/\s*(\d+)(?:\s+(\d+)\s*/\s*(\d+))?\s*\|\s*$")


@dataclass(frozen=True, kw_only=True)
class Card:
    """One accelerator: its name, and its memory in bytes. health: in the words of npu-smi."""

    name: str
    memory_bytes: int
    used_bytes: int
    health: str = ""


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

    @property
    def names(self) -> str:
        """What the cards are called, alike ones counted: `2 x NVIDIA H100 PCIe`."""
        counts = Counter(card.name for card in self.cards)
        return ", ".join(f"{count} x {name}" for name, count in counts.items())


def find_cards() -> Cards:
    """Look for NPUs, then for CUDA cards, in the order in which `danlu.device.detect` chooses."""
    return _npus() or cuda_cards() or Cards(kind="cpu")


def cards_elsewhere(kind: str) -> Cards:
    """Describe a kind of device that this machine lacks: for an image or a bundle that it makes.

    It has no cards and no driver; CANN is the one that is installed here.
    """
    if kind == "npu":
        return Cards(kind=kind, toolkit="CANN", toolkit_version=AscendMachine().cann)
    return Cards(kind=kind)


def _npus() -> Cards | None:
    cards = npus_in(ask("npu-smi", "info").text)
    machine = AscendMachine()
    if not cards:
        return None
    return Cards(
        kind="npu",
        cards=cards,
        driver=machine.driver,
        toolkit="CANN",
        toolkit_version=machine.cann,
    )


def npus_in(table: str) -> tuple[Card, ...]:
    """Read the chips of a table of npu-smi; none where it is not one."""
    names = [found for line in table.splitlines() if (found := _NPU_NAME.search(line))]
    memories = [found for line in table.splitlines() if (found := _NPU_MEMORY.search(line))]
    if len(names) != len(memories):
        return ()
    cards = []
    for name, memory in zip(names, memories, strict=True):
        pairs = [(int(memory[1]), int(memory[2])), (int(memory[3] or 0), int(memory[4] or 0))]
        used, total = max(pairs, key=lambda pair: pair[1])
        sizes = {"memory_bytes": total * _MIB, "used_bytes": used * _MIB}
        cards.append(Card(name=name[1], health=name[2], **sizes))
    return tuple(cards)


def cuda_cards() -> Cards | None:
    """Return the CUDA cards that nvidia-smi shows; None where there are none."""
    fields = "--query-gpu=driver_version,memory.total,memory.used,name"
    lines = ask("nvidia-smi", fields, "--format=csv,noheader,nounits").text.splitlines()
    cards, drivers = [], []
    for line in lines:
        parts = [part.strip() for part in line.split(",", 3)]
        if len(parts) == 4 and parts[1].isdigit() and parts[2].isdigit():
            total, used = int(parts[1]) * _MIB, int(parts[2]) * _MIB
            cards.append(Card(name=parts[3], memory_bytes=total, used_bytes=used))
            drivers.append(parts[0])
    if not cards:
        return None
    newest = re.search(r"CUDA[\w ]*Version\s*:\s*([\d.]+)", ask("nvidia-smi").text)
    return Cards(
        kind="cuda",
        cards=tuple(cards),
        driver=drivers[0],
        toolkit="CUDA",
        toolkit_version=newest[1] if newest else "",
    )


def unused_cards() -> Cards | None:
    """Return the CUDA cards that nvidia-smi shows and nobody has hidden, where torch sees none."""
    cards = None if shutil.which("nvidia-smi") is None else cuda_cards()
    if cards is None or hidden_cards(os.environ, len(cards.cards)) is not None:
        return None
    return cards


def cuda_capabilities() -> tuple[tuple[int, int], ...]:
    """Return the compute capability of each card, such as (8, 9); none where nvidia-smi is old."""
    text = ask("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").text
    found = re.findall(r"^\s*(\d+)\.(\d+)\s*$", text, re.MULTILINE)
    return tuple((int(major), int(minor)) for major, minor in found)


@dataclass(frozen=True, kw_only=True)
class ToolAnswer:
    """What a driver's tool prints; where it fails, what it says of that.

    is_there: the tool is installed. hangs: it did not end in time.
    """

    text: str = ""
    problem: str = ""
    is_there: bool = True
    hangs: bool = False


def ask(*command: str, patience_s: float = _PATIENCE_S) -> ToolAnswer:
    """Run a driver's tool; it may be missing, fail or hang."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=patience_s, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return ToolAnswer(hangs=True)
    except OSError as fault:
        return ToolAnswer(problem=str(fault), is_there=False)
    text, errors = (part.decode("utf-8", "replace") for part in (done.stdout, done.stderr))
    if done.returncode == 0:
        return ToolAnswer(text=text)
    said = (errors.strip() or text.strip()).splitlines()
    return ToolAnswer(problem=said[-1].strip() if said else f"exit code {done.returncode}")
