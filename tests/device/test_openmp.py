"""How threads wait for each other: alone, and beside a program that keeps a processor busy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from danlu.device import openmp
from danlu.device.openmp import is_crowded
from danlu.environment import waited_ns

# Small products one after the other, each a region of its own, as in a decoding step. A line for
# each round: whether threads sleep early.
COMPUTE = """
import sys, threading, time
from danlu.device.detect import select
select()
import torch
data = torch.ones(300_000)
while True:
    for _ in range(500):
        data.add_(1.0)
    names = {thread.name for thread in threading.enumerate()}
    print(int("openmp-watch" in names), int("openmp-team" in names), flush=True)
"""
PROCESSORS = len(os.sched_getaffinity(0))


@contextmanager
def computing(**environ: str) -> Iterator[Callable[[], tuple[bool, bool]]]:
    """Give what asks whether waiting is watched, and whether threads sleep early."""
    given = {**os.environ, **environ}
    given = {name: value for name, value in given.items() if value}
    with subprocess.Popen(
        [sys.executable, "-c", COMPUTE], env=given, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None

        def ask(stream: Iterator[str] = process.stdout) -> tuple[bool, bool]:
            watched, early = next(stream).split()
            return watched == "1", early == "1"

        try:
            yield ask
        finally:
            process.kill()


@pytest.mark.skipif(PROCESSORS < 2, reason="one processor: nobody waits for another thread")
@pytest.mark.skipif(not waited_ns(), reason="this system does not count waiting")
def test_threads_sleep_early_beside_other_programs() -> None:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with computing(OMP_WAIT_POLICY="", GOMP_SPINCOUNT="", OMP_NUM_THREADS="2") as ask:
            deadline = time.monotonic() + 60
            while ask() != (True, True):
                assert time.monotonic() < deadline
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.parametrize(
    "given",
    [
        {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": ""},
        {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "7"},
    ],
)
def test_what_the_user_has_set_is_not_watched(given: dict[str, str]) -> None:
    with computing(**given) as ask:
        assert ask() == (False, False)


@pytest.mark.skipif(not waited_ns(), reason="this system does not count waiting")
def test_a_team_makes_others_sleep_early_and_lets_them_spin_again() -> None:
    """Where libgomp looks: spinning takes processor time while nothing is computed."""
    program = """
import json, time, threading
import torch
from danlu.device import openmp
team = openmp.IdleTeam(openmp.libgomp())
data = torch.ones(300_000)
def spent():
    # Between two regions there are 2 ms, which the others wait for.
    for _ in range(5):
        data.add_(1.0)
    begun = time.process_time()
    for _ in range(100):
        data.add_(1.0)
        time.sleep(0.002)
    return time.process_time() - begun
def with_team(wanted):
    team.be_there(wanted)
    while ("openmp-team" in {thread.name for thread in threading.enumerate()}) != wanted:
        time.sleep(0.01)
    return min(spent() for _ in range(3))
print(json.dumps([with_team(wanted) for wanted in (False, True, False)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **{k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY",)},
            "GOMP_SPINCOUNT": "300000",
            "OMP_NUM_THREADS": str(max(2, PROCESSORS)),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    spinning, asleep, again = json.loads(done.stdout)
    assert asleep < 0.5 * spinning
    assert again > 2 * asleep


@pytest.mark.skipif(PROCESSORS < 2, reason="one processor: torch takes one thread")
def test_a_thread_that_begins_while_another_computes_alone_has_all_threads() -> None:
    """It asked torch while variants were tried, had one for good, and waiting was never watched."""
    if openmp.libgomp() is None:
        pytest.skip("this torch has not loaded GNU's OpenMP")
    program = """
import json, threading
import torch
from danlu.device.openmp import one_thread
found = []
def ask():
    found.append(torch.get_num_threads())
def asked(one):
    one.start()
    one.join()
with one_thread():
    ask()
    asked(threading.Thread(target=ask))
ask()
asked(threading.Thread(target=ask))
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [1, 2, 2, 2]


def test_libgomp_is_found_in_a_folder_with_a_space_and_its_loss_stops_nothing(
    tmp_path: Path,
) -> None:
    """danlu installed in such a folder did not start: only the path's last word was opened."""
    lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    real = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    if len(real) != 1:
        pytest.skip("this torch has not loaded GNU's OpenMP")
    folder = tmp_path / "新 文件夹"
    folder.mkdir()
    copy = Path(shutil.copy(real.pop(), folder / "libgomp.so.1"))
    maps = tmp_path / "maps"
    line = f"7f0000000000-7f0000001000 r-xp 00000000 08:01 42                       {copy}\n"
    maps.write_text(line * 2, encoding="utf-8")
    found = openmp.libgomp(maps)
    assert found is not None
    assert found._name == str(copy)
    for broken in (line.replace(".so.1", ".so.1 (deleted)"), "libgomp\n", ""):
        maps.write_text(broken, encoding="utf-8")
        assert openmp.libgomp(maps) is None


@pytest.mark.parametrize(
    ("last", "now", "crowded"),
    [
        ({1: 0, 2: 0}, {1: 10_000_000, 2: 5_000_000}, False),
        ({1: 0, 2: 0}, {1: 400_000_000, 2: 300_000_000}, True),
        # One has ended, another has begun.
        ({1: 0, 2: 9_000_000_000}, {1: 0, 3: 1_000_000}, False),
        ({1: 5}, {1: 5, 3: 700_000_000}, True),
    ],
)
def test_who_waits_for_a_processor(
    last: dict[int, int], now: dict[int, int], crowded: bool
) -> None:
    assert is_crowded(last, now, seconds=1.0) == crowded


@pytest.mark.parametrize("text", ["0 0 0", "nonsense", ""])
def test_a_system_that_does_not_count_waiting(text: str, tmp_path: Path) -> None:
    task = tmp_path / "17"
    task.mkdir()
    (task / "schedstat").write_text(text, encoding="ascii")
    assert waited_ns(tmp_path) == {}
    assert waited_ns(tmp_path / "nowhere") == {}
