"""The kernels' threads are torch's own: how many, in which processes, and who waits for whom.

Each in a process of its own: OpenMP keeps its threads for as long as a process lives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from danlu.environment import waited_ns
from tests.helpers.models.native import needs_library

pytestmark = needs_library

PROCESSORS = len(os.sched_getaffinity(0))
BEGIN = """
import json, os, threading, time
import torch
from danlu.ops.native import library
from danlu.ops.native.native_linear import NativeMatrix

def count():
    return len(os.listdir("/proc/self/task"))

def multiply_in_torch():
    torch.ones(4_000_000).add_(1)
    return torch.randn(600, 600) @ torch.randn(600, 600)

def spent():
    "Seconds of the processors that each thread has had."
    return {task: int(open(f"/proc/self/task/{task}/schedstat").read().split()[0]) / 1e9
            for task in os.listdir("/proc/self/task")}

generator = torch.Generator().manual_seed(0)
def numbers(*size):
    return torch.randn(size, generator=generator).bfloat16()

# No other thread is begun by making numbers.
threads = torch.get_num_threads()
torch.set_num_threads(1)
x, weight = numbers(5, 1024), numbers(2048, 1024)
torch.set_num_threads(threads)
alone = count()
"""


def told(program: str, **variables: str) -> Any:
    """Run a program behind BEGIN, and return what it prints as JSON."""
    given = {name: value for name, value in (os.environ | variables).items() if value}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program], env=given, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("first", [pytest.param("torch", marks=pytest.mark.soak), "native"])
def test_there_is_one_pool_of_threads(first: str) -> None:
    """Whoever is first makes it: the other adds none."""
    program = """
steps = [multiply_in_torch, lambda: NativeMatrix(weight)(x)]
if FIRST == "native":
    steps.reverse()
counts = []
for step in (*steps, *steps):
    step()
    counts.append(count() - alone)
print(json.dumps([threads, counts]))
"""
    threads, counts = told(f"FIRST = {first!r}\n" + program, OMP_NUM_THREADS="2")
    assert counts == [threads - 1] * 4


@pytest.mark.parametrize(
    "way", [pytest.param("set_num_threads", marks=pytest.mark.soak), "OMP_NUM_THREADS"]
)
def test_as_many_threads_compute_as_torch_is_told(way: str) -> None:
    program = """
if SET:
    torch.set_num_threads(1)
matrix = NativeMatrix(weight)
for _ in range(20):
    matrix(x)
print(json.dumps(count() - alone))
"""
    is_set = way == "set_num_threads"
    assert told(f"SET = {is_set}\n" + program, OMP_NUM_THREADS="2" if is_set else "1") == 0


@pytest.mark.skipif(PROCESSORS < 2, reason="one processor computes alone")
def test_all_threads_compute_and_after_fewer_are_asked_for_the_others_do_not() -> None:
    program = """
matrix = NativeMatrix(weight)
def shares():
    before = spent()
    for _ in range(300):
        matrix(x)
    after = spent()
    return sorted(after[task] - before.get(task, 0) for task in after)[::-1]
matrix(x)
both = shares()
torch.set_num_threads(1)
print(json.dumps([both, shares()]))
"""
    # Threads that wait sleep: only work counts.
    both, alone = told(program, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive")
    assert both[1] > 0.2 * both[0]
    assert alone[1] < 0.1 * alone[0]


def test_calls_from_several_threads_at_once_are_right() -> None:
    program = """
matrices = [NativeMatrix(numbers(outputs, 1024)) for outputs in (2048, 96, 1000, 33)]
rows = [numbers(count, 1024) for count in (1, 40, 5, 13)]
expected = [matrix(x) for matrix, x in zip(matrices, rows)]
wrong = []
def call(number):
    for again in range(100):
        if not torch.equal(matrices[number](rows[number]), expected[number]):
            wrong.append([number, again])
threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(wrong))
"""
    assert told(program, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive") == []


def test_a_forked_process_computes_by_one_thread() -> None:
    """OpenMP's threads are not in it, and whoever waited for them would wait for ever."""
    program = """
matrix = NativeMatrix(weight)
expected = matrix(x)
child = os.fork()
if child == 0:
    import signal
    signal.alarm(60)
    os._exit(0 if torch.equal(matrix(x), expected) else 3)
_child, status = os.waitpid(child, 0)
# The parent still computes by all of its own.
print(json.dumps([status, torch.equal(matrix(x), expected)]))
"""
    assert told(program, OMP_NUM_THREADS="2") == [0, True]


def test_without_gnus_openmp_one_thread_computes_the_same() -> None:
    program = """
torch.set_num_threads(1)
expected = NativeMatrix(weight)(x)
torch.set_num_threads(2)
library.libgomp = lambda: None
library.library.cache_clear()
again = NativeMatrix(weight)
print(json.dumps([torch.equal(again(x), expected), count() - alone]))
"""
    assert told(program, OMP_NUM_THREADS="2") == [True, 0]


@pytest.mark.soak
@pytest.mark.skipif(PROCESSORS < 2, reason="one processor: nobody waits for another thread")
@pytest.mark.skipif(not waited_ns(), reason="this system does not count waiting")
def test_beside_other_programs_threads_of_the_kernels_sleep_early() -> None:
    """As torch's do (device/openmp.py): a product would else cost a neighbour's time slice."""
    program = """
from danlu.device.detect import select
select()
matrix = NativeMatrix(weight)
until = time.monotonic() + 60
while "openmp-team" not in {t.name for t in threading.enumerate()} and time.monotonic() < until:
    for _ in range(200):
        matrix(x)
print(json.dumps(time.monotonic() < until))
"""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        assert told(program, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="", GOMP_SPINCOUNT="")
    finally:
        for other in others:
            other.kill()
            other.wait()
