"""Processor time of a piece of work: its own, whatever else the test process has to do."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ProcessorTime:
    seconds = 0.0


@contextmanager
def processor_time() -> Iterator[ProcessorTime]:
    """Measure what this process spends inside the block; `seconds` is there after it.

    Python's collector is put off meanwhile: after thousands of tests one of its walks over what
    they left behind takes most of a second, in whatever work it happens to fall.
    """
    spent = ProcessorTime()
    gc.disable()
    started = time.process_time()
    try:
        yield spent
    finally:
        spent.seconds = time.process_time() - started
        gc.enable()


def grows_at_most(seconds: Callable[[int], float], small: int, large: int, factor: float) -> bool:
    """Whether the time of the large size is at most that many times the time of the small one.

    Threads that other tests left count into a process's time, so the least of up to three is
    taken: what costs the square of its size costs it each time.
    """
    least_small = least_large = float("inf")
    for _ in range(3):
        least_small = min(least_small, seconds(small))
        least_large = min(least_large, seconds(large))
        if least_large < factor * least_small + 0.1:
            return True
    return False
