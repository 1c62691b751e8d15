"""Functions of modules that import Triton, which happens when they are first called."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch

from danlu.device.nvidia_cards import ADA, AMPERE, BLACKWELL, THOR
from danlu.ops.choice import NotHere
from danlu.ops.nvidia.triton_start import require_triton

# The first cards that compute with a module's kernels, where these are not Ampere.
_FIRST = {"frozen.fp8": (ADA, "Ada")}


def late(module: str, name: str) -> Callable[..., Any]:
    """Return a function of `{module}_kernels.py` that is imported at its first call."""

    def call(*arguments: Any, **named: Any) -> Any:
        return _function(module, name)(*arguments, **named)

    return call


@lru_cache(maxsize=64)
def _function(module: str, name: str) -> Callable[..., Any]:
    # Triton 3.9 warns where nobody says whether a product and a sum may be rounded once.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    capability, first = _FIRST.get(module, (AMPERE, "Ampere"))
    if is_older_than(capability):
        raise NotHere(f"these kernels are made and compiled for cards from {first} on")
    if torch.cuda.is_available():
        require_triton()
    function: Callable[..., Any] = getattr(
        import_module(f"danlu.ops.nvidia.{module}_kernels"), name
    )
    return function


def is_older_than(capability: tuple[int, int]) -> bool:
    """Whether this process's card has a lower compute capability."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() < capability


def has_tensor_memory() -> bool:
    """Whether this process's card keeps sums of products in a memory of their own (tcgen05).

    Data centres' Blackwell and Thor do. Where a loop adds two products to one sum, Triton before
    3.9 loses some of them there (triton-lang/triton, pull request 10858); not of sums of fewer than
    64 rows, which stay in registers.
    """
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] in (BLACKWELL, THOR)
