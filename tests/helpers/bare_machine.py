"""A made-up machine to install danlu on: a clone, a home, and the programs that it has. No network.

The environment's Python is a stand-in that writes down what it is asked, and the danlu in it
answers as a real one does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.driver_tools import write_tool
from tests.helpers.source import ROOT

BASE_PYTHON = str(getattr(sys, "_base_executable", sys.executable))
COREUTILS = ("bash", "sh", "cat", "readlink", "dirname", "id")
# Prints the versions it is asked for; pip does what FAKE_PIP says.
FAKE_PYTHON = """
printf '%s|' "$@" >> "$FAKE_LOG"; echo >> "$FAKE_LOG"
case "$1 $2" in
    -c*) shift 2; for name; do
            case $name in
                torch) echo 2.10.0+cpu ;; torch-npu) echo 2.10.0.post4 ;; numpy) echo 1.26.4 ;;
            esac
        done ;;
    "-m pip") eval "$FAKE_PIP" ;;
esac
"""
FAKE_DANLU = """
case "$*" in
    "info --json") echo '{"device": "'"$FAKE_DEVICE"': a device"'"$FAKE_FACTS"'}' ;;
    generate*) echo "I am the starter." ;;
esac
"""


class Machine:
    """A clone of danlu in a folder with a space and Chinese, and what is on PATH."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "新 文件夹" / "dan lu"
        self.tools = folder / "tools"
        self.home = folder / "home"
        self.log = folder / "log"
        for made in (self.clone / "scripts", self.clone / "tools", self.tools, self.home):
            made.mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "install.sh", self.clone / "scripts")
        shutil.copytree(ROOT / "tools" / "install", self.clone / "tools" / "install")
        for name in ("src", "native", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
            (self.clone / name).symlink_to(ROOT / name)
        for name in COREUTILS:
            (self.tools / name).symlink_to(str(shutil.which(name)))
        self.variables = {
            "PATH": str(self.tools), "HOME": str(self.home), "FAKE_LOG": str(self.log),
            "FAKE_PIP": "true", "FAKE_DEVICE": "cpu", "FAKE_FACTS": "", "DANLU_LANG": "en",
            "ASCEND_HOME_PATH": str(folder / "no-cann"), "SHELL": "/bin/bash",
            # Whatever asks the network gets no answer, at once.
            "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
        }  # fmt: skip

    def add_python(self) -> None:
        """Put a real Python on PATH."""
        write_tool(self.tools, "python3", f'exec "{BASE_PYTHON}" "$@"\n')

    def add_environment(self) -> None:
        """Put a stand-in for .venv in its place."""
        programs = self.clone / ".venv" / "bin"
        write_tool(programs, "python", FAKE_PYTHON)
        write_tool(programs, "danlu", FAKE_DANLU)

    def install(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script from another folder."""
        return subprocess.run(
            ["bash", str(self.clone / "scripts" / "install.sh"), *words],
            env=self.variables | variables, cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def pip_words(self) -> list[str]:
        """What the last pip was called with."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return next(line for line in reversed(lines) if line.startswith("-m|pip|")).split("|")

    @property
    def pins(self) -> str:
        """What pip was held to."""
        return (self.clone / ".venv" / "constraints.txt").read_text(encoding="utf-8")
