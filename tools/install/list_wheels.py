"""Asks the package index which wheels there are for every package that danlu needs, transitively.

    .venv/bin/python -m tools.install.list_wheels

Writes wheels.json: for each Python what is needed, and its wheel for each processor. pip looks them
up (`--dry-run`: nothing is installed), in the versions of constraints.txt. What lacks a pin or a
wheel is named at the end, with exit code 1. Only developers run this, after those have changed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from danlu.device.ascend.versions import USABLE_PAIRS
from tools.install.builds import BUILDS, ROOT
from tools.install.gather import LISTED, platform_tags

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
# They belong to the CUDA build of torch alone.
_OF_CUDA = re.compile(r"(nvidia|cuda)-|triton$")
_NONE_FOUND = re.compile(r"No matching distribution found for (\S+)==")
ABOUT = (
    "What danlu needs, transitively, in the versions of constraints.txt, and the wheels that the "
    "package index has of it. Groups: danlu itself with what builds it, JupyterLab for the images, "
    "what CANN and torch_npu ask of a Python. Written by tools/install/list_wheels.py."
)


@dataclass
class Listing:
    """needed: by Python, group and name the version; wheels: file names by name and version."""

    needed: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    wheels: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    lacking: set[str] = field(default_factory=set)


def roots() -> dict[str, list[str]]:
    """Return what is asked for itself, by group."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pair = USABLE_PAIRS[0]
    return {
        # hatchling asks for editables when danlu is installed as a link to its folder.
        "danlu": [
            *project["project"]["dependencies"],
            *project["build-system"]["requires"],
            "editables",
        ],
        "jupyter": project["project"]["optional-dependencies"]["jupyter"],
        "cann": [
            *BUILDS["ascend"]["cann_python"],
            f"torch=={pair.torch}",
            f"torch-npu=={pair.torch_npu}",
        ],
    }


def environment_of(python: str, machine: str) -> dict[str, str]:
    """Return the values that the conditions of requirements are read with."""
    here = {name: str(value) for name, value in default_environment().items()}
    there = {"python_version": python, "python_full_version": f"{python}.0"}
    return {**here, **there, "platform_machine": machine, "extra": ""}


def pins_for(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of constraints.txt by name."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(dict(environment)):
                (version,) = pin.specifier
                pins[canonicalize_name(pin.name)] = version.version
    return pins


def follow(group: str, asked: Iterable[str], python: str, machine: str, listing: Listing) -> None:
    """Add a group with all that it needs."""
    environment = environment_of(python, machine)
    pins, groups = pins_for(environment), listing.needed.setdefault(python, {})
    others = [names for other, names in groups.items() if other != group]
    before = {name: version for names in others for name, version in names.items()}
    mine = groups.setdefault(group, {})
    waiting, seen = [Requirement(text) for text in asked], set(before.items())
    while waiting:
        wanted: dict[str, str] = {}
        extras: dict[str, set[str]] = {}
        for requirement in waiting:
            name = canonicalize_name(requirement.name)
            version = _exact(requirement) or pins.get(name, "")
            if _OF_CUDA.match(name) or ((name, version) in seen and not requirement.extras):
                continue
            if not version:
                listing.lacking.add(f"{name}: no pin for Python {python}")
                continue
            wanted[name] = version
            extras.setdefault(name, {""}).update(requirement.extras)
        seen |= set(wanted.items())
        waiting = []
        for package in look_up(wanted, python, machine, listing):
            name = canonicalize_name(package["metadata"]["name"])
            if before.get(name) != wanted[name]:
                mine[name] = wanted[name]
            file = unquote(package["download_info"]["url"].rpartition("/")[2].partition("#")[0])
            listing.wheels.setdefault(name, {}).setdefault(wanted[name], set()).add(file)
            for text in package["metadata"].get("requires_dist", ()):
                inner = Requirement(text)
                if inner.marker is None or any(
                    inner.marker.evaluate({**environment, "extra": extra}) for extra in extras[name]
                ):
                    waiting.append(inner)


def _exact(requirement: Requirement) -> str:
    """Return the one version that a requirement allows; "" where it allows several.

    Without what names a build: torch_npu for x86-64 asks for torch+cpu, which is on another index.
    """
    exact = (one.version.partition("+")[0] for one in requirement.specifier if one.operator == "==")
    return next((version for version in exact if "*" not in version), "")


def look_up(
    wanted: Mapping[str, str], python: str, machine: str, listing: Listing
) -> list[dict[str, Any]]:
    """Let pip find the wheels; what has none is noted as lacking."""
    left = dict(wanted)
    while left:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"),
                    *("--no-deps", "--quiet", "--disable-pip-version-check", "--report", "-"),
                    *("--target", folder, "--only-binary=:all:", "--implementation", "cp"),
                    *("--python-version", python),
                    *(f"--platform={tag}" for tag in platform_tags(machine)),
                    *(f"{name}=={version}" for name, version in left.items()),
                ],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode == 0:
            packages: list[dict[str, Any]] = json.loads(done.stdout)["install"]
            return packages
        found = _NONE_FOUND.search(done.stderr)
        if found is None:
            raise SystemExit(done.stderr)
        name = canonicalize_name(found[1])
        listing.lacking.add(f"{name}=={left.pop(name)}: no wheel for {machine}, Python {python}")
    return []


def main() -> int:
    """Look everything up and write the list."""
    listing = Listing()
    for python in PYTHONS:
        for machine in MACHINES:
            for group, asked in roots().items():
                follow(group, asked, python, machine, listing)
            print(f"Python {python}, {machine}: {sum(map(len, listing.needed[python].values()))}")
    record = {
        "about": ABOUT,
        "machines": MACHINES,
        "needed": listing.needed,
        "wheels": {
            name: {version: sorted(files) for version, files in versions.items()}
            for name, versions in listing.wheels.items()
        },
    }
    LISTED.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(*sorted(listing.lacking), sep="\n")
    return int(bool(listing.lacking))


if __name__ == "__main__":
    sys.exit(main())
