"""The sources of the kernels in a tree of a test's own, to be built quickly there."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.helpers.source import ROOT


def copy_native(folder: Path) -> None:
    """Copy native/ into a folder; what is built of it there is not optimised."""
    place = folder / "native"
    shutil.copytree(ROOT / "native", place, ignore=shutil.ignore_patterns("__pycache__"))
    script = place / "build.py"
    text = script.read_text("utf-8")
    assert '"-O3"' in text
    script.write_text(text.replace('"-O3"', '"-O0"'), "utf-8")
