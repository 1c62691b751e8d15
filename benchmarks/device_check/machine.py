"""The card, its libraries, what it reaches, and what danlu's operations compute with on it."""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from importlib import metadata

import torch

from benchmarks.device_check.part import WITHOUT, Report
from danlu.errors import EnvironmentFault
from danlu.ops import examine_operations, ops_table
from danlu.ops.choice import VARIABLE

_PACKAGES = ("torch", "triton", "transformers", "peft", "tokenizers", "pydantic", "liger-kernel")


def run(settings: argparse.Namespace, report: Report) -> None:
    """Describe the machine, and choose what operations compute with."""
    device = torch.device(settings.device)
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    report.put("versions", versions, ", ".join(f"{k} {v}" for k, v in versions.items()))
    if device.type == "cuda":
        _card(report)
    with report.trying("operations"):
        begun = time.perf_counter()
        try:
            table = ops_table(device)
        except EnvironmentFault as fault:
            # A kernel has broken the card for this process; it would for each that tries it.
            report.put(WITHOUT, str(fault.fix).rpartition(f"{VARIABLE}=")[2])
            raise
        report.put("chosen within", time.perf_counter() - begun)
        report.put("operations", dict(table.chosen), table.as_text)
        report.put("switched off", list(table.off), "; ".join(table.off) or "nothing")


def try_variants(settings: argparse.Namespace, report: Report) -> None:
    """Try every variant of every operation, and time it."""
    device = torch.device(settings.device)
    tried = []
    for each in examine_operations(device):
        tried.append(vars(each))
        report.put("variants", tried)
    wrong = [f"{each['operation']}={each['variant']}" for each in tried if each["fault"]]
    report.put("variants", tried, f"{len(tried)} tried; wrong: {', '.join(wrong) or 'none'}")


def _card(report: Report) -> None:
    properties = torch.cuda.get_device_properties(0)
    figures = {name: str(getattr(properties, name)) for name in dir(properties) if name[0] != "_"}
    report.put(
        "properties", figures, f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
    )
    report.put("kernels for", torch.cuda.get_arch_list())
    with report.trying("nvidia-smi"):
        asked = ["nvidia-smi", "-q", "-d", "CLOCK,POWER,MEMORY,PERFORMANCE"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
        report.put("nvidia-smi", done.stdout)
    with report.trying("reached"):
        reached = {"products_tflops": _products() / 1e12, "copies_gb_s": _copies() / 1e9}
        words = "bf16 products {products_tflops:.0f} TFLOP/s, copies {copies_gb_s:.0f} GB/s"
        report.put("reached", reached, words.format(**reached))


def _products(size: int = 8192, repeats: int = 10) -> float:
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _n in range(2))
    return 2 * size**3 * repeats / _seconds(lambda: left @ right, repeats)


def _copies(num_bytes: int = 2**31, repeats: int = 10) -> float:
    source = torch.empty(num_bytes, device="cuda", dtype=torch.uint8)
    there = torch.empty_like(source)
    return 2 * num_bytes * repeats / _seconds(lambda: there.copy_(source), repeats)


def _seconds(work, repeats: int) -> float:  # type: ignore[no-untyped-def]
    begun, ended = (torch.cuda.Event(enable_timing=True) for _n in range(2))
    for _warm_up in range(3):
        work()
    begun.record()
    for _repeat in range(repeats):
        work()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1e3
