"""What stands in the environment before torch is loaded, and what a container allows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from danlu import container, environment
from danlu.environment import SPIN_ROUNDS, prepare_environment, waited_ns

ASK = """
import os, sys
import {module}
assert "torch" not in sys.modules
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
"""


def cgroup(folder: Path, files: dict[str, str]) -> Path:
    """A folder as Linux shows a container's limits."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="ascii")
    return folder


@pytest.mark.parametrize("module", ["danlu", "danlu.cli.main", "danlu.errors"])
def test_how_threads_wait_is_left_to_the_watch_or_set_before_torch_is_loaded(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(module=module)],
        env={"PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["None" if waited_ns() else str(SPIN_ROUNDS), "None"]


def test_where_waiting_is_not_counted_threads_spin_a_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "waited_ns", dict)
    environ: dict[str, str] = {}
    prepare_environment(environ)
    assert environ["GOMP_SPINCOUNT"] == str(SPIN_ROUNDS)
    assert not environment.is_watched(environ)
    assert environment.waiting(environ) == f"GOMP_SPINCOUNT={SPIN_ROUNDS}"


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_has_set_stays(given: dict[str, str]) -> None:
    environ = dict(given)
    prepare_environment(environ)
    assert {name: environ.get(name) for name in given} == given
    assert len({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environ.keys()) == 1


@pytest.mark.parametrize(
    ("quota", "threads"), [(0.5, "1"), (1.0, "1"), (2.7, "2"), (4.0, None), (None, None)]
)
def test_no_more_threads_than_the_quota_pays_for(
    quota: float | None, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "num_processors", lambda: 4)
    monkeypatch.setattr(environment, "processor_quota", lambda: quota)
    environ: dict[str, str] = {}
    prepare_environment(environ)
    assert environ.get("OMP_NUM_THREADS") == threads
    environ = {"OMP_NUM_THREADS": "3"}
    prepare_environment(environ)
    assert environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_both_versions(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert container.processor_quota(cgroup(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("files", "limit", "free"),
    [
        (
            {
                "memory.max": "1000000",
                "memory.current": "700000",
                "memory.stat": "anon 300000\ninactive_file 100000",
            },
            1_000_000,
            400_000,
        ),
        (
            {"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "1500"},
            1000,
            0,
        ),
        ({"memory.max": "max", "memory.current": "700000"}, None, None),
    ],
)
def test_the_container_limits_memory(
    files: dict[str, str], limit: int | None, free: int | None, tmp_path: Path
) -> None:
    root, machine = cgroup(tmp_path / "this", files), tmp_path / "none"
    if limit is None:
        assert container.memory_bytes(root) == container.memory_bytes(machine)
        # Other programs take and give memory back meanwhile.
        assert container.free_memory_bytes(root) > 0
    else:
        assert container.memory_bytes(root) == limit
        assert container.free_memory_bytes(root) == free
