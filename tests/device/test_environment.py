"""What stands in the environment before torch is loaded, and what a container allows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from danlu import container, environment
from danlu.environment import (
    SPIN_ROUNDS,
    prepare_environment,
    prepare_for_training,
    waited_ns,
)
from danlu.files.detached import start_detached
from tests.helpers.source import danlu_modules
from tests.helpers.waiting import wait_until

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


@pytest.fixture
def with_a_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of nodes on a machine of eight processors that this process may all use."""
    monkeypatch.setattr(environment, "processors", lambda: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in ("davinci0", "davinci_manager", "davinci1", "vdavinci100", "null"):
        (tmp_path / name).touch()
    return tmp_path


def test_what_torch_npu_reads_is_set_where_there_is_an_ascend(with_a_chip: Path) -> None:
    environ: dict[str, str] = {}
    prepare_environment(environ, with_a_chip)
    expected = {
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "CPU_AFFINITY_CONF": "1",
        "HCCL_CONNECT_TIMEOUT": "600",
    }
    assert {name: environ.get(name) for name in expected} == expected
    # With it no graph can be captured: it is for training alone.
    assert "TASK_QUEUE_ENABLE" not in environ
    prepare_for_training(environ, with_a_chip)
    assert environ["TASK_QUEUE_ENABLE"] == "2"
    assert [node.name for node in container.chip_nodes(with_a_chip)] == [
        "davinci0", "davinci1", "vdavinci100",
    ]  # fmt: skip


def test_without_an_ascend_only_the_loading_is_off(tmp_path: Path) -> None:
    for dev in (tmp_path, tmp_path / "none"):
        environ: dict[str, str] = {}
        prepare_environment(environ, dev)
        prepare_for_training(environ, dev)
        assert environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
        assert not [name for name in environ if re.search("NPU|HCCL|QUEUE|AFFINITY", name)]


@pytest.mark.parametrize(
    "given",
    [
        {"TORCH_DEVICE_BACKEND_AUTOLOAD": "1"},
        {"TASK_QUEUE_ENABLE": "1"},
        {"PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:256"},
        {"PYTORCH_ALLOC_CONF": "expandable_segments:False"},
        {"CPU_AFFINITY_CONF": "0"},
        {"HCCL_CONNECT_TIMEOUT": "1200"},
    ],
)
def test_what_the_user_has_set_for_torch_npu_stays(
    given: dict[str, str], with_a_chip: Path
) -> None:
    environ = dict(given)
    prepare_environment(environ, with_a_chip)
    prepare_for_training(environ, with_a_chip)
    assert {name: environ[name] for name in given} == given
    # torch_npu ends the process where both are set.
    assert len({"PYTORCH_ALLOC_CONF", "PYTORCH_NPU_ALLOC_CONF"} & environ.keys()) == 1


@pytest.mark.parametrize(
    ("allowed", "binding"),
    [
        (range(192), "1"),
        (range(144, 168), "1,force:1,npu0:144-167"),
        ([0, 1, 2, 8, 9, 100], "1,force:1,npu0:0-2,npu0:8-9,npu0:100-100"),
    ],
)
def test_a_container_with_fewer_processors_names_them(allowed: Sequence[int], binding: str) -> None:
    assert environment.processor_binding(allowed, 192) == binding


def test_what_danlu_sets_is_told_from_what_its_user_sets(
    with_a_chip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_set_here", {})
    for name in ("TASK_QUEUE_ENABLE", "TORCH_DEVICE_BACKEND_AUTOLOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "1200")
    prepare_environment(os.environ, with_a_chip)
    prepare_for_training(os.environ, with_a_chip)
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "1")  # later, in a notebook, say
    own, users = environment.set_here(), environment.users_environment()
    assert own["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
    assert not {"TASK_QUEUE_ENABLE", "HCCL_CONNECT_TIMEOUT"} & own.keys()
    assert users["TASK_QUEUE_ENABLE"] == "1"
    assert users["HCCL_CONNECT_TIMEOUT"] == "1200"
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD" not in users
    for name in own:
        monkeypatch.delenv(name)


# What it starts of its own, which loads no torch.
OWN_PROGRAMS = {"danlu.device.cards", "danlu.engine.grammar_compiler", "danlu.hub.chat_template"}


def test_whatever_danlu_starts_for_others_gets_the_users_environment() -> None:
    """vLLM must load torch_npu by itself; another danlu sets its own."""
    starters = {"subprocess.run", "subprocess.Popen", "os.execvpe"}
    for name, module in danlu_modules().items():
        calls = [call for call in module.calls() if module.dotted(call.func) in starters]
        if name not in OWN_PROGRAMS:
            assert not calls or "users_environment()" in module.text, name
        others = {f"os.{kind}" for kind in ("execv", "execvp", "execl", "spawnv", "posix_spawn")}
        assert not [call for call in module.calls() if module.dotted(call.func) in others], name


def test_a_detached_process_gets_the_users_environment(tmp_path: Path) -> None:
    """The studio's trainings: asked of the process itself."""
    names = "['TORCH_DEVICE_BACKEND_AUTOLOAD', 'DANLU_LANG']"
    program = f"import os; print([os.environ.get(name) for name in {names}])"
    log = tmp_path / "log"
    assert os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
    start_detached([sys.executable, "-c", program], log=log, lock=tmp_path / "lock")
    wait_until(lambda: log.read_text("utf-8").strip() != "")
    assert log.read_text("utf-8").strip() == "[None, 'en']"
