"""Thousands of steps: memory and open files stay where they are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from danlu.train.events import StepDone
from tests.helpers.figures import figure
from tests.helpers.training.small_run import SMALL, SmallRun

STEPS = 10_000
KIB_PER_1000_STEPS = 1024


def resident_kib() -> int:
    """Memory of this process that is not swapped out (proc(5))."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_memory_and_open_files_do_not_grow(tmp_path: Path) -> None:
    recipe = replace(SMALL, total_steps=STEPS, eval_steps=500, save_steps=500)
    small = SmallRun.on_model_in(tmp_path / "model", recipe)
    memory, files = [], []
    for event in small.events(tmp_path / "run"):
        if isinstance(event, StepDone) and event.step % 1000 == 0:
            memory.append(resident_kib())
            files.append(len(os.listdir("/proc/self/fd")))
    assert len(set(files[1:])) == 1
    # The allocator needs the first steps to find its size.
    growth = (memory[-1] - memory[2]) / (len(memory) - 3)
    assert growth < KIB_PER_1000_STEPS
    figure("steps in one run", STEPS)
