"""Gathers what an installation elsewhere needs from the network: the wheels of an offline bundle.

    python -m tools.install.gather FOLDER --device npu --machine aarch64 --python 3.11 --cann 9.1

Writes FOLDER/wheels and FOLDER/bundle.json. Started by `danlu bundle`, which adds the rest. Which
packages these are, wheels.json says (`list_wheels.py` writes it): pip reads the conditions in a
package as for the Python that runs pip, not as for another one.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from danlu.device.cards import cards_elsewhere
from danlu.errors import DanluError, EnvironmentFault
from danlu.language import _
from tools.install.builds import BUILDS, TorchChoice, choose
from tools.install.bundle import RECORD, WHEELS
from tools.install.environment import fault_of_pip, pinned_torch, run_pip
from tools.install.indexes import first_listing

LISTED = Path(__file__).parent / "wheels.json"
# Versions of the C library for which wheels are built, the newest of them that danlu needs first.
_GLIBC = (31, 28, 27, 26, 24, 17, 12, 5)
_OLD_NAMES = ("manylinux2014", "manylinux2010", "manylinux1")
_NONE_FOUND = re.compile(r"No matching distribution found for (\S+)")


def main() -> int:
    """Gather; errors are three lines and an exit code."""
    asked = _read_words()
    try:
        gather(asked)
    except DanluError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def gather(asked: argparse.Namespace) -> None:
    """Download the wheels and write the record. Raises EnvironmentFault, CapacityError."""
    major, minor = map(int, asked.python.split("."))
    python = (major, minor)
    choice = choose(
        found=replace(cards_elsewhere(asked.device), toolkit_version=asked.cann),
        installed={},
        torch=pinned_torch(),
        pip_words=(),
        find=partial(first_listing, python=python, machine=asked.machine),
        python=python,
    )
    print(choice.reason, flush=True)
    pins = {"torch": pinned_torch(), **_pins(asked), **choice.pins}
    _check_torch(asked, has_cpu_build="+" in pins["torch"])
    _download(asked, choice, pins)
    record = {
        "device": asked.device,
        "machine": asked.machine,
        "python": asked.python,
        "requirements": choice.requirements,
        "pins": pins,
        "command": asked.command,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (asked.folder / RECORD).write_text(text, encoding="utf-8")


def platform_tags(machine: str) -> Iterator[str]:
    """Give the names of platforms whose wheels run on a machine with glibc 2.31 or newer."""
    yield from (f"manylinux_2_{minor}_{machine}" for minor in _GLIBC)
    yield from (f"{name}_{machine}" for name in _OLD_NAMES)
    yield f"linux_{machine}"


def _check_torch(asked: argparse.Namespace, *, has_cpu_build: bool) -> None:
    """Raise EnvironmentFault where the torch that pip would take does not run on that machine."""
    is_like_here = asked.machine == platform.machine()
    if asked.device == "cuda" and not is_like_here:
        raise EnvironmentFault(
            _("A bundle for CUDA is made on a machine with the same processor."),
            why=_("Which of CUDA's libraries torch needs, its package says for this machine only."),
            fix=_("Run the command on a machine with {machine}.").format(machine=asked.machine),
        )
    # On pip's own index torch is a build for CUDA: torch_npu does not bear it, and without CUDA's
    # libraries it is not loaded. That of 2.10 for aarch64 is an exception.
    takes_any = is_like_here if asked.device == "cpu" else asked.machine == "aarch64"
    if asked.device != "cuda" and not has_cpu_build and not takes_any:
        raise EnvironmentFault(
            _("No index of torch's CPU builds answers."),
            why=_("The torch of pip's own index is for CUDA and would not be loaded there."),
            fix=_("Let one of these be reached, then run the command again: {addresses}").format(
                addresses=", ".join(BUILDS["cpu"]["indexes"])
            ),
        )


def _pins(asked: argparse.Namespace) -> dict[str, str]:
    groups = json.loads(LISTED.read_text(encoding="utf-8"))["needed"][asked.python]
    wanted = ("danlu", "cann") if asked.device == "npu" else ("danlu",)
    return {name: version for group in wanted for name, version in groups[group].items()}


def _download(asked: argparse.Namespace, choice: TorchChoice, pins: Mapping[str, str]) -> None:
    named = [f"{name}=={version}" for name, version in pins.items()]
    # For another processor pip would add what only this one needs: CUDA's libraries.
    alone = () if asked.machine == platform.machine() else ("--no-deps",)
    with tempfile.TemporaryDirectory(prefix="danlu-") as folder:
        held = Path(folder) / "constraints.txt"
        held.write_text("\n".join(named) + "\n", encoding="utf-8")
        said = run_pip(
            [
                *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check"),
                *("--quiet", "--progress-bar", "on", "--retries", "2"),
                *("--dest", str(asked.folder / WHEELS), "--only-binary=:all:"),
                *(f"--platform={tag}" for tag in platform_tags(asked.machine)),
                *("--python-version", asked.python, "--implementation", "cp", *alone),
                *("-c", str(held), *choice.pip_words, *named, *choice.requirements),
            ]
        )
    if said is not None:
        raise _fault(said, asked)


def _fault(said: str, asked: argparse.Namespace) -> DanluError:
    if "No module named pip" in said:
        return EnvironmentFault(
            _("The packages could not be downloaded."),
            why=_("{python} has no pip.").format(python=sys.executable),
            fix=f"{sys.executable} -m ensurepip",
        )
    none = _NONE_FOUND.search(said)
    if none is not None and "Failed to establish" not in said:
        return EnvironmentFault(
            _("A package has no wheel for that machine."),
            why=_("The index lists no {package} for {machine} and Python {python}.").format(
                package=none[1], machine=asked.machine, python=asked.python
            ),
            fix=_("Take another Python, such as {option}, or another index: {variable}").format(
                option="--python 3.11", variable="PIP_INDEX_URL"
            ),
        )
    return fault_of_pip(said)


def _read_words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.install.gather")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=["npu", "cuda", "cpu"], required=True)
    parser.add_argument("--machine", choices=["x86_64", "aarch64"], required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--cann", default="")
    parser.add_argument("--command", default="")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
