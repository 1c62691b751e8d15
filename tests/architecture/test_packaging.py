"""What is published: pins for every dependency, make targets that exist, no private paths."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from danlu.cli.installing.scripts import shipped
from tests.helpers.source import ROOT

TARGETS = {
    "help", "setup", "demo", "test", "soak", "check", "bench-train", "bench-serve", "starter",
    "starter-eval", "studio", "native", "clean",
}  # fmt: skip
# Places that exist only where danlu is developed. `/root/autodl-tmp` is not one: users rent it.
PRIVATE_PATH = re.compile(rb"(?<![\w.])/(?:work/\w|tmp/danlu/|opt/(?:wheels|pypi)|root/\.pyenv)")


def project() -> dict[str, Any]:
    """Read pyproject.toml's [project] table."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML by itself")
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def pins() -> list[Requirement]:
    """Read constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_each_dependency_is_pinned_once(python: str) -> None:
    pinned: dict[str, str] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name = canonicalize_name(pin.name)
            assert name not in pinned, f"{name} has two pins on Python {python}"
            (version,) = pin.specifier
            assert version.operator == "=="
            pinned[name] = version.version
    tables = [project()["dependencies"], *project()["optional-dependencies"].values()]
    for line in (line for table in tables for line in table):
        wanted = Requirement(line)
        version_pinned = pinned.get(canonicalize_name(wanted.name))
        assert version_pinned, f"constraints.txt lacks {wanted.name}"
        assert wanted.specifier.contains(version_pinned), f"{line} is not {version_pinned}"


def test_make_lists_its_targets() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    printed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, env=environment, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert {line.split()[1] for line in printed.splitlines()} == TARGETS


def test_the_wheel_holds_every_script_and_its_rows() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML by itself")
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    listed = tool["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert listed == {
        str(source.relative_to(ROOT)): f"danlu/oneclick/{name}"
        for name, source in shipped().items()
    }


def test_packages_of_the_page_come_from_whichever_registry_answers() -> None:
    """No address stands in the lock; what comes is held to its digest."""
    lock = json.loads((ROOT / "frontend" / "package-lock.json").read_text("utf-8"))
    packages = {name: facts for name, facts in lock["packages"].items() if name}
    assert packages
    assert not [name for name, facts in packages.items() if "resolved" in facts]
    assert not [name for name, facts in packages.items() if not facts.get("integrity")]


def test_no_private_paths() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    paths = [ROOT / os.fsdecode(name) for name in listing.split(b"\0") if name]
    found = {
        str(path.relative_to(ROOT)): match[0]
        for path in paths
        if path.is_file() and (match := PRIVATE_PATH.search(path.read_bytes()))
    }
    assert not found
