"""Functions of modules that import Triton, which happens when they are first called."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch

from danlu.device.nvidia_cards import ADA, AMPERE
from danlu.ops.choice import NotHere


def late(module: str, name: str, *, since: tuple[int, int] = AMPERE) -> Callable[..., Any]:
    """Return a function of `{module}_kernels.py` that is imported at its first call.

    since: the compute capability from which on cards compute with it.
    """

    def call(*arguments: Any, **named: Any) -> Any:
        return _function(module, name, since)(*arguments, **named)

    return call


@lru_cache(maxsize=64)
def _function(module: str, name: str, since: tuple[int, int]) -> Callable[..., Any]:
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < since:
        first = {AMPERE: "Ampere", ADA: "Ada"}[since]
        raise NotHere(f"these kernels are made and compiled for cards from {first} on")
    # Triton 3.9 warns where nobody says whether a product and a sum may be rounded once.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    function: Callable[..., Any] = getattr(
        import_module(f"danlu.ops.nvidia.{module}_kernels"), name
    )
    return function
