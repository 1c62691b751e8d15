"""torch_npu, the package that teaches torch to compute on Ascend: loading it, and why that fails.

torch would load it by itself and die of it (`danlu.environment.AUTOLOAD`). Here it is tried once a
process, after torch; whatever happens, the rest of danlu goes on. What can go wrong is in
`causes.py`.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from dataclasses import replace
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
    """Load torch and torch_npu, and ask for a chip."""
    torch = import_module("torch")
    found = Situation(
        machine=machine,
        torch=torch.__version__,
        torch_npu=installed_version(),
        is_cuda_build=torch.version.cuda is not None,
    )
    if not is_installed():
        return causes.not_installed(found)
    said = _load()
    if said is not None:
        return causes.loading_failed(replace(found, said=said))
    name, said = _name_of_chip(torch)
    if not name:
        return causes.no_device(replace(found, said=said))
    chip = chip_named(name)
    return None if chip is None or chip.can_answer else causes.chip_refused(found, chip, name)


def is_installed() -> bool:
    """Whether there is a torch_npu to load."""
    return util.find_spec(PACKAGE) is not None


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
