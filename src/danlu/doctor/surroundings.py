"""What the doctor looks at: the machine's files, its drivers' tools, and torch from outside.

Everything that takes time runs at once: a process that loads torch, and the tools meanwhile.
Nothing here says what is right or wrong, and torch is never loaded into this process.
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from danlu.container import free_memory_bytes, memory_bytes
from danlu.device import torch_probe
from danlu.device.ascend.causes import NpuTrouble, Situation
from danlu.device.ascend.machine import AscendMachine
from danlu.device.ascend.torch_plugin import Attempt, installed_version, judged
from danlu.device.cards import Card, Cards, ToolAnswer, ask, cuda_cards, npus_in
from danlu.environment import users_environment
from danlu.files.home import danlu_home, rented_disk
from danlu.language import _

# Loading torch takes 1 to 3 s, starting an Ascend several more.
PATIENCE_S = 60.0
_TOOL_PATIENCE_S = 4.0


@dataclass(frozen=True, kw_only=True)
class TorchFacts:
    """torch and torch_npu as a process finds them that loads them.

    problem: why torch cannot be loaded; the rest is empty then. capability: the instructions that
    its kernels for the CPU use. cuda: names of the cards it sees; without_kernels: of those among
    them that this build cannot compute with. npu: the runtime's name of the
    chip, npu_memory its free and all bytes; trouble: why there is none.
    """

    version: str = ""
    problem: str = ""
    is_cuda_build: bool = False
    capability: str = ""
    cuda: tuple[str, ...] = ()
    without_kernels: tuple[str, ...] = ()
    npu: str = ""
    npu_memory: tuple[int, int] = (0, 0)
    trouble: NpuTrouble | None = None


def space(folder: Path) -> tuple[int, int]:
    """Return the free and all bytes of the disk that a folder is on, or would be."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    usage = shutil.disk_usage(there)
    return usage.free, usage.total


def is_port_free(port: int) -> bool:
    """Whether a server could listen on a port."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except OSError:
            return False
    return True


def memory() -> tuple[int | None, int]:
    """Return the free bytes of memory, as far as they are known, and all that may be used."""
    return free_memory_bytes(), memory_bytes()


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """All that the checks look at. A test puts another machine in its place."""

    torch: TorchFacts
    npu_smi: ToolAnswer = field(default_factory=lambda: ToolAnswer(is_there=False))
    gpus: Cards | None = None
    machine: AscendMachine = field(default_factory=AscendMachine)
    torch_version: str = field(default_factory=lambda: installed_version("torch"))
    torch_npu_version: str = field(default_factory=installed_version)
    python: tuple[int, int, int] = sys.version_info[:3]
    architecture: str = field(default_factory=platform.machine)
    encoding: str = field(
        default_factory=lambda: sys.stdout.encoding or sys.getfilesystemencoding()
    )
    home: Path = field(default_factory=danlu_home)
    rented: Path | None = field(default_factory=rented_disk)
    shared: Path = Path("/dev/shm")
    space: Callable[[Path], tuple[int, int]] = space
    memory: Callable[[], tuple[int | None, int]] = memory
    is_port_free: Callable[[int], bool] = is_port_free

    @cached_property
    def npus(self) -> tuple[Card, ...]:
        """The chips that npu-smi shows."""
        return npus_in(self.npu_smi.text)

    @property
    def has_ascend(self) -> bool:
        """Whether anything of Ascend is on this machine, apart from torch_npu."""
        return self.machine.is_ascend or bool(self.npus)

    @property
    def situation(self) -> Situation:
        """The machine as the causes of a missing NPU see it."""
        return Situation(
            machine=self.machine,
            torch=self.torch.version or self.torch_version,
            torch_npu=self.torch_npu_version,
            is_cuda_build=self.torch.is_cuda_build,
            said=self.torch.trouble.said if self.torch.trouble else "",
        )


def look_around() -> Surroundings:
    """Look at this machine. Takes as long as loading torch does, and no longer than PATIENCE_S."""
    machine = AscendMachine()
    probe = _start_probe()
    npu_smi = ask("npu-smi", "info", patience_s=_TOOL_PATIENCE_S)
    gpus = cuda_cards()
    torch = _probed(probe, machine, PATIENCE_S)
    return Surroundings(torch=torch, npu_smi=npu_smi, gpus=gpus, machine=machine)


def _start_probe() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, torch_probe.__file__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=users_environment(),
    )


def _probed(probe: subprocess.Popen[str], machine: AscendMachine, patience_s: float) -> TorchFacts:
    try:
        printed, said = probe.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.communicate()
        return TorchFacts(
            problem=_("It did not answer within {seconds:.0f} s.").format(seconds=patience_s)
        )
    lines = [line for line in printed.splitlines() if line.startswith(torch_probe.MARK)]
    if lines:
        return torch_facts(json.loads(lines[-1].removeprefix(torch_probe.MARK)), machine)
    if probe.returncode < 0:
        number = -probe.returncode
        return TorchFacts(
            problem=_("Whoever loads it crashes: {signal}.").format(
                signal=signal.Signals(number).name
            )
        )
    last = [line.strip() for line in said.splitlines() if line.strip()]
    return TorchFacts(problem=last[-1] if last else f"exit code {probe.returncode}")


def torch_facts(record: dict[str, Any], machine: AscendMachine) -> TorchFacts:
    """Read what the probe has printed; why there is no NPU is judged here."""
    tried = Attempt(**record["attempt"]) if "attempt" in record else None
    trouble = judged(tried, machine) if tried else None
    free, total = record.get("npu_memory", (0, 0))
    return TorchFacts(
        version=record.get("version", ""),
        problem=record.get("problem", ""),
        capability=record.get("capability", ""),
        cuda=tuple(record.get("cuda", ())),
        without_kernels=tuple(record.get("without_kernels", ())),
        is_cuda_build=tried is not None and tried.is_cuda_build,
        npu=tried.chip if tried and trouble is None else "",
        npu_memory=(free, total),
        trouble=trouble,
    )
