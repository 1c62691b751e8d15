"""The program that loads torch and torch_npu for the doctor, and prints what it finds.

It is a process of its own: a broken library may end or hang whoever loads it. Run as a file, not as
a module: what lies in the working folder must not come before the installed packages. Prints one
line of JSON, the last that begins with MARK; libraries may print what they like before it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from importlib import import_module
from typing import Any

# It sets what torch reads when it is loaded, so it is imported before torch.
from danlu.device.ascend.torch_plugin import attempt
from danlu.device.nvidia_cards import has_kernels

MARK = "danlu-torch-probe "


def main() -> None:
    """Print the facts, and end without the libraries' own farewells, which may hang."""
    print(MARK + json.dumps(facts()), flush=True)
    sys.stderr.flush()
    os._exit(0)


def facts() -> dict[str, Any]:
    """Return what torch is and computes with, and what became of torch_npu (`Attempt`)."""
    try:
        torch = import_module("torch")
        cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        found = {
            "version": str(torch.__version__),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cuda": [torch.cuda.get_device_name(number) for number in cuda],
            "without_kernels": [
                torch.cuda.get_device_name(number)
                for number in cuda
                if not has_kernels(
                    torch.cuda.get_device_capability(number), tuple(torch.cuda.get_arch_list())
                )
            ],
        }
    except (Exception, SystemExit) as fault:
        return {"problem": f"{type(fault).__name__}: {fault}"}
    tried = attempt()
    if tried.chip:
        found["npu_memory"] = list(map(int, torch.npu.mem_get_info()))  # free and all bytes
    return {**found, "attempt": asdict(tried)}


if __name__ == "__main__":
    main()
