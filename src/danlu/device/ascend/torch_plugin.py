"""torch_npu, the package that teaches torch to compute on Ascend: loading it, and why that fails.

torch would load it by itself and die of it (`danlu.environment.AUTOLOAD`). Here it is tried once a
process, after torch; whatever happens, the rest of danlu goes on. What can go wrong is in
`causes.py`.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module, metadata, util
from typing import Any

from danlu.device.ascend import causes
from danlu.device.ascend.causes import NpuTrouble, Situation
from danlu.device.ascend.chips import chip_named
from danlu.device.ascend.machine import AscendMachine

PACKAGE = "torch_npu"


@cache
def npu_trouble() -> NpuTrouble | None:
    """Say why no NPU can be used; None where one can. torch_npu is loaded by then.

    The first call takes seconds on an Ascend: the driver starts the chip.
    """
    return look_for_npu(AscendMachine())


def look_for_npu(machine: AscendMachine) -> NpuTrouble | None:
    """Load torch and torch_npu, ask for a chip, and judge what happened."""
    return judged(attempt(), machine)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What became of loading torch_npu, for whoever judges it, in this process or another.

    torch, torch_npu: versions, empty where there is none. is_cuda_build: of torch. is_loaded:
    torch_npu; said: its words where it failed. chip: the runtime's name of the first, else empty.
    """

    torch: str
    torch_npu: str
    is_cuda_build: bool
    is_installed: bool
    is_loaded: bool = False
    said: str = ""
    chip: str = ""


def attempt() -> Attempt:
    """Load torch, then torch_npu, and ask for a chip."""
    torch = import_module("torch")
    found = Attempt(
        torch=str(torch.__version__),
        torch_npu=installed_version(),
        is_cuda_build=torch.version.cuda is not None,
        is_installed=util.find_spec(PACKAGE) is not None,
    )
    said = _load() if found.is_installed else ""
    if said is not None:
        return replace(found, said=said)
    chip, said = _name_of_chip(torch)
    return replace(found, is_loaded=True, chip=chip, said=said)


def judged(tried: Attempt, machine: AscendMachine) -> NpuTrouble | None:
    """Say why no NPU can be used, by what became of loading torch_npu and by the machine."""
    found = Situation(
        machine=machine,
        torch=tried.torch,
        torch_npu=tried.torch_npu,
        is_cuda_build=tried.is_cuda_build,
        said=tried.said,
    )
    if not tried.is_installed:
        return causes.not_installed(found)
    if not tried.is_loaded:
        return causes.loading_failed(found)
    if not tried.chip:
        return causes.no_device(found)
    chip = chip_named(tried.chip)
    if chip is None or chip.can_answer:
        return None
    return causes.chip_refused(found, chip, tried.chip)


def installed_version(distribution: str = "torch-npu") -> str:
    """Return the version of an installed package without loading it; empty where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _load() -> str | None:
    """Import torch_npu; return what it says where that fails, else None."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            import_module(PACKAGE)
    except (Exception, SystemExit) as fault:  # older ones end the process where CANN is not found
        return f"{said.getvalue()}\n{_as_python_says(fault)}".strip()
    sys.stderr.write(said.getvalue())
    return None


def _name_of_chip(torch: Any) -> tuple[str, str]:
    """Return the runtime's name of the first chip, or what is said where there is none."""
    try:
        if not torch.npu.is_available():
            return "", ""
        return str(torch.npu.get_device_properties(0).name), ""
    except Exception as fault:
        return "", _as_python_says(fault)


def _as_python_says(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}"
