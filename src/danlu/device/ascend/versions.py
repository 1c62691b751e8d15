"""Which torch, torch_npu, CANN, driver and Python go together, as data. No torch here.

torch_npu bears the version of the torch that it was built for; its `.postN` says for which CANN.
Sources: COMPATIBILITY.en.md of https://github.com/Ascend/pytorch (August 2026), vllm-ascend's
versioning policy (2.10.0 for CANN 9.0), the README in torch_npu 2.14's wheel; for drivers the
release notes of CANN 8.5 and 9.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What danlu runs with; pyproject.toml says the same.
OLDEST_TORCH = "2.10"
# Images with a pair that fits, and with CANN alone.
TORCH_NPU_IMAGE = "quay.io/ascend/torch-npu:2.10.0-910b-ubuntu22.04-py3.11"
CANN_IMAGE = "quay.io/ascend/cann:9.1.0-910b-ubuntu22.04-py3.11"
# Below it an index for each build: cpu, cu126. PyPI's torch for x86-64 is for CUDA, beside which
# torch_npu refuses to be loaded.
INDEXES = "https://download.pytorch.org/whl"
CPU_INDEX = f"{INDEXES}/cpu"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A torch and its torch_npu, for a CANN (a prefix of its version) and a range of Pythons."""

    torch: str
    torch_npu: str
    cann: str
    python: tuple[str, str]


def _pair(cann: str, torch: str, build: str = "", newest_python: str = "3.13") -> Pair:
    return Pair(torch=torch, torch_npu=torch + build, cann=cann, python=("3.10", newest_python))


# For each CANN the pair to take first: it is what vllm-ascend takes, and most machines have.
PAIRS = (
    _pair("9.1", "2.10.0", ".post4"),
    _pair("9.1", "2.12.0", newest_python="3.14"),
    _pair("9.1", "2.11.0", newest_python="3.14"),
    _pair("9.1", "2.14.0", newest_python="3.14"),
    _pair("9.1", "2.9.0", ".post6"),
    _pair("9.1", "2.7.1", ".post8"),
    _pair("9.0.1", "2.10.0", ".post2"),
    _pair("9.0", "2.10.0"),
    _pair("9.0", "2.9.0", ".post2"),
    _pair("9.0", "2.8.0", ".post4"),
    _pair("9.0", "2.7.1", ".post4"),
    _pair("8.5", "2.9.0"),
    _pair("8.5", "2.8.0", ".post2"),
    _pair("8.5", "2.7.1", ".post2"),
    _pair("8.5", "2.6.0", ".post5", "3.11"),
    _pair("8.3", "2.8.0"),
    _pair("8.3", "2.7.1"),
    _pair("8.3", "2.6.0", ".post3", "3.11"),
    _pair("8.2", "2.6.0", newest_python="3.11"),
    _pair("8.2", "2.5.1", ".post1", "3.11"),
    _pair("8.1", "2.5.1", newest_python="3.11"),
)
# The oldest driver that a CANN runs on.
_OLDEST_DRIVERS = {"9.1": "25.2", "9.0": "25.0", "8.5": "25.0"}


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2, 10, 0) of 2.10.0.post4 or 2.10.0+cpu."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def release(version: str) -> str:
    """Return 2.10.0 of 2.10.0.post4 or 2.10.0+cpu."""
    return ".".join(map(str, numbers(version)[:3]))


USABLE_PAIRS = tuple(pair for pair in PAIRS if numbers(pair.torch) >= numbers(OLDEST_TORCH))


def pairs_for(cann: str, python: tuple[int, ...]) -> list[Pair]:
    """List the pairs for a CANN and a Python that danlu runs with, the one to take first."""
    return [
        pair
        for pair in USABLE_PAIRS
        if is_of(cann, pair.cann)
        and numbers(pair.python[0]) <= python[:2] <= numbers(pair.python[1])
    ]


def pair_of(torch: str, cann: str) -> Pair | None:
    """Return the pair of an installed torch for a CANN; None where the table has none."""
    alike = (pair for pair in PAIRS if pair.torch == release(torch))
    return next((pair for pair in alike if is_of(cann, pair.cann)), None)


def cann_of(torch_npu: str) -> str:
    """Return the CANN that a torch_npu was built for; empty where the table does not know it."""
    plain = torch_npu.partition("+")[0]
    return next((pair.cann for pair in PAIRS if pair.torch_npu == plain), "")


def oldest_driver(cann: str) -> str:
    """Return the oldest driver that a CANN runs on; empty where nobody says it."""
    return next((driver for known, driver in _OLDEST_DRIVERS.items() if is_of(cann, known)), "")


def is_of(version: str, prefix: str) -> bool:
    """Whether a version begins with these numbers: 9.0.1 with 9.0."""
    wanted = numbers(prefix)
    return bool(wanted) and numbers(version)[: len(wanted)] == wanted
