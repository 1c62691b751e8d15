"""Every package that danlu needs has a wheel for both processors, says tools/install/wheels.json.

`python -m tools.install.list_wheels` asks the package index and writes that list; these tests read
it and compare it with constraints.txt, pyproject.toml and what is installed here. They ask nobody.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from danlu.device.ascend.versions import USABLE_PAIRS
from tools.install.gather import LISTED, platform_tags
from tools.install.list_wheels import MACHINES, PYTHONS, environment_of, pins_for, roots

LIST = json.loads(LISTED.read_text(encoding="utf-8"))


def needed(python: str, *groups: str) -> dict[str, str]:
    """Return the versions of what some groups need on a Python; CANN's take the place of others."""
    chosen = groups or ("danlu", "jupyter", "cann")
    return {
        name: version for group in chosen for name, version in LIST["needed"][python][group].items()
    }


def runnable(python: str, machine: str) -> set[Tag]:
    """Return the tags of the wheels that a machine can use."""
    number = (int(python.split(".")[0]), int(python.split(".")[1]))
    platforms = list(platform_tags(machine))
    short = f"cp{number[0]}{number[1]}"
    return {
        *cpython_tags(number, platforms=platforms),
        *compatible_tags(number, short, platforms=platforms),
    }


def lacking(python: str, machine: str, versions: Iterable[tuple[str, str]]) -> list[str]:
    """Return what has no wheel in the list for this Python and processor."""
    tags = runnable(python, machine)
    return [
        f"{name}=={version}"
        for name, version in versions
        if not any(
            parse_wheel_filename(file)[3] & tags
            for file in LIST["wheels"].get(name, {}).get(version, ())
        )
    ]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_everything_has_a_wheel(python: str, machine: str) -> None:
    versions = [item for group in LIST["needed"][python] for item in needed(python, group).items()]
    assert len(versions) > 100
    assert not lacking(python, machine, versions)


def test_one_without_a_wheel_is_found() -> None:
    """torch_npu has none for Python 3.9, rouge-score none at all, which is why it is not needed."""
    torch_npu = ("torch-npu", needed("3.11")["torch-npu"])
    assert lacking("3.9", "aarch64", [torch_npu]) == ["torch-npu==2.10.0.post4"]
    assert lacking("3.11", "riscv64", [torch_npu])
    assert lacking("3.11", "aarch64", [("rouge-score", "0.1.2")])


@pytest.mark.parametrize("python", PYTHONS)
def test_the_versions_are_those_that_are_tested(python: str) -> None:
    pins = pins_for(environment_of(python, "x86_64"))
    wrong = {
        name: version
        for group in ("danlu", "jupyter")
        for name, version in needed(python, group).items()
        if pins.get(name) != version
    }
    assert not wrong, "constraints.txt has changed: python -m tools.install.list_wheels"
    pair = USABLE_PAIRS[0]
    held = {"torch": pair.torch, "torch-npu": pair.torch_npu, "protobuf": "3.20.3"}
    assert needed(python, "cann").items() >= held.items()


@pytest.mark.parametrize("group", ["danlu", "jupyter", "cann"])
def test_what_is_asked_for_is_listed(group: str) -> None:
    pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML by itself")
    for python in PYTHONS:
        known = needed(python)
        for text in roots()[group]:
            assert canonicalize_name(Requirement(text).name) in known, text


def test_what_is_installed_here_is_listed() -> None:
    """A package that a new version of another one brings along would be missed by the others."""
    pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML by itself")
    known = needed(f"{sys.version_info[0]}.{sys.version_info[1]}")
    waiting, seen = [Requirement(text).name for text in roots()["danlu"]], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        seen.add(name)
        with suppress(metadata.PackageNotFoundError):  # what only builds danlu is not installed
            for text in metadata.requires(name) or ():
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": ""}):
                    waiting.append(inner.name)
    assert len(seen) > 40
    assert not seen - known.keys()
