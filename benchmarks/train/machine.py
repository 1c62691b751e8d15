"""This machine, and what it can do.

    python -m benchmarks.train.machine RESULT

The peak is measured, not looked up: utilisation then compares a side with this very machine, its
threads and its matrix library.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from danlu.device.detect import select

# A projection of a few thousand tokens.
ROWS, INNER, COLUMNS = 2048, 4096, 4096
REPEATS = 10


def machine() -> dict[str, Any]:
    """Describe it in words and figures."""
    device = select("cpu")
    return {
        "processor": device.description,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": round(device.memory_bytes / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
        "gemm": f"bf16 {ROWS} x {INNER} x {COLUMNS}, best of {REPEATS} before and after the sides",
        "gemm_gflops": round(gemm_flops() / 1e9, 1),
        "reading_gb_per_s": round(reading_rate() / 1e9, 1),
    }


def gemm_flops() -> float:
    """Measure the operations per second of a large bf16 product, the best of some."""
    left = torch.randn(ROWS, INNER, dtype=torch.bfloat16)
    right = torch.randn(COLUMNS, INNER, dtype=torch.bfloat16)
    seconds = []
    for _repeat in range(1 + REPEATS):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - started)
    return 2 * ROWS * INNER * COLUMNS / min(seconds[1:])


def reading_rate() -> float:
    """Measure the bytes a second that all threads read from memory, the best of some."""
    numbers = torch.ones(1 << 28)  # 1 GiB, which no cache holds
    seconds = []
    for _repeat in range(1 + REPEATS):
        started = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - started)
    return numbers.nbytes / min(seconds[1:])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(machine()), encoding="utf-8")
