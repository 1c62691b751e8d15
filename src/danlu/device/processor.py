"""The processor's name and what it can do, as Linux lists them. No torch here."""

from __future__ import annotations

import platform
from collections.abc import Set
from pathlib import Path


def processor(listing: Path = Path("/proc/cpuinfo")) -> tuple[set[str], str]:
    """Read the processor's feature flags and name; Arm lists them as `Features`, without a name."""
    flags: set[str] = set()
    name = platform.processor() or platform.machine()
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError:
        return flags, name
    for line in lines:
        key, _colon, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags |= set(value.split())
        elif key.strip() == "model name":
            name = value.strip()
    return flags, name


def multiplies_twice(flags: Set[str]) -> bool:
    """Tell whether a core multiplies two vectors of 512 bits of bf16 numbers in a clock.

    AMD's Zen 5 does, Zen 4 one. Of both Zen 5 alone has AVX512-VP2INTERSECT, and Intel's processors
    that have it know no AVX512-BF16.
    """
    return {"avx512_bf16", "avx512_vp2intersect"} <= flags
