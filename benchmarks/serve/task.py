"""What every side is asked to do: lengths, repetitions, and how figures are passed on."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable

PREFILL_TOKENS = 512
DECODE_PROMPT = 128
DECODE_TOKENS = 64
REPEATS = 3
THREADS = 2


def prompt(seed: int, length: int) -> list[int]:
    """Return random ids of ordinary tokens."""
    return [random.Random(seed).randrange(1000, 100_000) for _ in range(length)]


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(work: Callable[[int], float]) -> float:
    """Return the median of several measurements, after one that does not count."""
    work(0)
    return statistics.median(work(index) for index in range(1, 1 + REPEATS))


def report(figures: dict[str, object]) -> None:
    """Hand the figures to the benchmark: the last line that a side prints."""
    print(json.dumps(figures), file=sys.stdout, flush=True)
