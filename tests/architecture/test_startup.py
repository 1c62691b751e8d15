"""`import danlu` and `danlu --help` answer at once, without the heavy libraries."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from tests.helpers.source import PACKAGE

HEAVY = (
    "torch", "numpy", "transformers", "pydantic", "matplotlib", "tokenizers", "rich", "yaml",
    "prompt_toolkit",
)  # fmt: skip
HELP_SECONDS = 0.4


def run_python(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_import_is_light() -> None:
    loaded = run_python(f"import sys, danlu; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_help_is_light_and_fast() -> None:
    code = (
        "import sys\nfrom danlu.cli.main import main\ncode = main(['--help'])\n"
        f"print(code, [m for m in {HEAVY} if m in sys.modules])"
    )
    # Processor time: other processes on the machine do not count. The first run fills caches.
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        printed = run_python(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert printed.splitlines()[-1] == "0 []"
    assert "danlu" in printed
    assert min(seconds) < HELP_SECONDS
