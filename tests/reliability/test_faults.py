"""A fault at every single operation that changes the disk: the old or the new state, never half."""

from __future__ import annotations

import errno
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.faulty_disk import Fault, every_fault
from tests.helpers.figures import figure
from tests.helpers.source import ROOT
from tests.helpers.training.run_scenarios import SCENARIOS, Scenario, prepare, restart

FAULTS: dict[str, tuple[Fault, bool]] = {
    "dies": ("dies", False),
    "I/O error": (errno.EIO, False),
    "disk full": (errno.ENOSPC, True),
    "read-only": (errno.EROFS, True),
    "rename lost on a network disk": (errno.ESTALE, False),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder / "run")
    return folder


@pytest.fixture
def fresh(prepared: Path, tmp_path: Path) -> Callable[[], Path]:
    """A fresh copy of the prepared run for every fault."""
    numbers = itertools.count()

    def copy() -> Path:
        return shutil.copytree(prepared, tmp_path / f"{next(numbers)}", symlinks=True) / "run"

    return copy


def old_and_new(scenario: Scenario, fresh: Callable[[], Path]) -> tuple[object, object]:
    """The states before and after the action, without a fault."""
    run = fresh()
    old = scenario.state(run)
    scenario.act(run)
    return old, scenario.state(run)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_at_any_operation_leaves_the_old_or_the_new(
    fresh: Callable[[], Path], name: str, kind: str
) -> None:
    scenario = SCENARIOS[name]
    whole = old_and_new(scenario, fresh)
    seen = []

    def check(run: Path) -> None:
        restart(run)
        state = scenario.state(run)
        assert state in whole
        seen.append(state)
        scenario.act(run)  # what failed can be done again
        restart(run)
        scenario.state(run)

    fault, lasting = FAULTS[kind]
    every_fault(fresh, scenario.act, check, fault=fault, lasting=lasting)
    assert seen[-1] == whole[1]


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from tests.helpers.faulty_disk import FaultyDisk, installed
from tests.helpers.training.run_scenarios import SCENARIOS, prepare

# A process of its own for every fault: it dies by SIGKILL at its N-th operation.
name, folder = sys.argv[1:]
for number in itertools.count(1):
    run = Path(folder, str(number), "run")
    prepare(run)
    child = os.fork()
    if child == 0:
        with installed(FaultyDisk(number, "is killed")):
            SCENARIOS[name].act(run)
        os._exit(0)
    _child, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
"""


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_real_kill_at_any_operation_leaves_the_old_or_the_new(
    fresh: Callable[[], Path], tmp_path: Path, name: str
) -> None:
    scenario = SCENARIOS[name]
    whole = old_and_new(scenario, fresh)
    place = tmp_path / "killed"
    subprocess.run([sys.executable, "-c", KILLED, name, str(place)], cwd=ROOT, check=True)
    runs = sorted(place.iterdir(), key=lambda path: int(path.name))
    for folder in runs:
        restart(folder / "run")
        assert scenario.state(folder / "run") in whole
    figure("processes killed at a write", len(runs) - 1)
