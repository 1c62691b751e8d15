"""Tests of training, merging, answering and serving, with the simulated card for a device.

They are the ordinary ones, which know of no device: here danlu finds the card and computes on it,
with Ascend's fused kernels. In processes of their own, without the settings of this folder.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from danlu.environment import users_environment
from tests.helpers.source import ROOT

FOLDERS = {
    "a job": ("tests/train/job/test_finetune.py", "tests/train/job/test_record.py"),
    "the command line": ("tests/cli/test_merge.py", "tests/cli/test_start_over.py"),
    "the server": (
        *(
            "tests/server/openai/test_chat_completions.py",
            "tests/server/openai/test_completions.py",
        ),
        "tests/server/openai/test_models_and_adapters.py",
    ),
    "the report": ("tests/workflows/report",),
}
LONG = {
    "training": ("tests/train/loop", "tests/train/fit", "tests/train/job/test_resume.py"),
    "commands": ("tests/cli/test_eval.py", "tests/cli/test_generate_rows.py"),
    "the whole server": ("tests/server/openai", "tests/server/lifecycle"),
    "workflows": ("tests/workflows",),
    "conversations": ("tests/dialog",),
}


def run(*paths: str) -> int:
    """Run tests with the card; return how many passed."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.sim.plugin", *paths]
    own = ("DANLU_", "PYTEST_")
    given = users_environment().items()
    environment = {name: value for name, value in given if not name.startswith(own)}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    return int(passed[1])


@pytest.mark.parametrize("paths", FOLDERS.values(), ids=FOLDERS)
def test_ordinary_tests_pass_on_the_card(paths: tuple[str, ...]) -> None:
    assert run(*paths) >= 5


@pytest.mark.soak
@pytest.mark.parametrize("paths", LONG.values(), ids=LONG)
def test_long_ordinary_tests_pass_on_the_card(paths: tuple[str, ...]) -> None:
    assert run(*paths) >= 5
