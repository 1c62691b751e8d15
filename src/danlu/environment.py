"""What stands in the process's environment before torch is loaded, unless the user has set it.

torch computes on the CPU with a pool of OpenMP threads. How they wait for each other is watched
while they compute (`danlu.device.openmp`); where the system does not tell what that needs, it is
set here once. What torch_npu reads when it is loaded is set where there is an Ascend. All of it is
for danlu's own process: programs that it starts for others get `users_environment`. Sources: the
manual of libgomp; torch's tutorial on autoloading; torch_npu's and CANN's lists of variables.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from pathlib import Path

from danlu.container import chip_nodes, num_processors, processor_quota, processors

# Rounds for which a thread spins before it sleeps, where nobody watches: between the best alone and
# the best beside other programs. docs/performance.md holds what was measured.
SPIN_ROUNDS = 1000
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_TASKS = Path("/proc/self/task")
_DEV = Path("/dev")
# With 0 torch loads no other packages: `import torch` dies of a torch_npu that is broken.
# `danlu.device.ascend.torch_plugin` loads it.
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
# torch_npu ends the process where both are set.
ALLOCATORS = ("PYTORCH_NPU_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_set_here: dict[str, str] = {}


def prepare_environment(environ: MutableMapping[str, str] = os.environ, dev: Path = _DEV) -> None:
    """Set how many threads compute, how they wait, and what torch_npu reads.

    What the user has set stays.
    """
    values = {AUTOLOAD: "0"}
    if is_watched(environ) and not waited_ns():
        values["GOMP_SPINCOUNT"] = str(SPIN_ROUNDS)
    quota = processor_quota()
    if quota is not None and quota < num_processors():
        values["OMP_NUM_THREADS"] = str(max(1, int(quota)))
    if chip_nodes(dev):
        values |= _for_torch_npu(environ)
    set_unless_given(values, environ)


def prepare_for_training(environ: MutableMapping[str, str] = os.environ, dev: Path = _DEV) -> None:
    """Let the host prepare more operations ahead of an Ascend, before torch_npu is loaded.

    Not for a process that only answers: no graph can be captured with it (torch_npu, NPUGraph.cpp).
    """
    if chip_nodes(dev):
        set_unless_given({"TASK_QUEUE_ENABLE": "2"}, environ)


def set_unless_given(
    values: Mapping[str, str], environ: MutableMapping[str, str] = os.environ
) -> None:
    """Set the variables that nobody has set, and remember them for `set_here`."""
    for name, value in values.items():
        if name not in environ:
            environ[name] = _set_here[name] = value


def set_here(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that danlu has set in this process, not its user."""
    return {name: value for name, value in _set_here.items() if environ.get(name) == value}


def users_environment() -> dict[str, str]:
    """Return the environment as the user has it, for the programs that danlu starts.

    vLLM needs torch_npu to be loaded by itself, and binds processors in its own way; another danlu
    sets its own.
    """
    own = set_here()
    return {name: value for name, value in os.environ.items() if name not in own}


def _for_torch_npu(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what an Ascend wants; docs/ascend.md explains each."""
    values = {
        "CPU_AFFINITY_CONF": processor_binding(processors(), os.cpu_count() or 1),
        "HCCL_CONNECT_TIMEOUT": "600",
    }
    if not any(name in environ for name in ALLOCATORS):
        values[ALLOCATORS[0]] = "expandable_segments:True"
    return values


def processor_binding(allowed: Collection[int], num_of_machine: int) -> str:
    """Write which processors torch_npu binds its threads to.

    1: to the chip's share of the machine's. In a container with fewer, torch_npu would take that
    for a binding of the user's and skip its own, or name processors that are not there: so they are
    named, and force:1 lets it go on. Source: torch_npu's CPU_AFFINITY_CONF.
    """
    if len(allowed) >= num_of_machine:
        return "1"
    return ",".join(["1", "force:1", *(f"npu0:{first}-{last}" for first, last in _runs(allowed))])


def _runs(numbers: Collection[int]) -> Iterator[tuple[int, int]]:
    """Give the first and the last of each run of numbers that follow each other."""
    rest = sorted(numbers)
    while rest:
        length = next((n for n, number in enumerate(rest) if number != rest[0] + n), len(rest))
        yield rest[0], rest[length - 1]
        rest = rest[length:]


def is_watched(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether nothing says how threads wait, so that it may change while they compute."""
    return not any(name in environ for name in _WAITING)


def waiting(environ: Mapping[str, str] = os.environ) -> str:
    """Return the variables that say how threads wait for each other; "" where it is watched."""
    return " ".join(f"{name}={environ[name]}" for name in _WAITING if name in environ)


def waited_ns(tasks: Path = _TASKS) -> dict[int, int]:
    """Return how long each thread of this process has waited for a processor, in nanoseconds.

    Empty where the system does not count it. Source: Linux's Documentation/scheduler/sched-stats.
    """
    waited = {}
    try:
        for task in tasks.iterdir():
            ran, waits, _slices = (task / "schedstat").read_text("ascii").split()
            if int(ran):
                waited[int(task.name)] = int(waits)
    except (OSError, ValueError):  # a thread that has just ended, or no such file
        pass
    return waited
