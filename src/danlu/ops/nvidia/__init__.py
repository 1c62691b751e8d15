"""Variants for NVIDIA cards: kernels in Triton, and what torch's CUDA build has besides.

Triton comes with torch's CUDA wheels, not with those for the CPU. So the modules of kernels are
imported when one is first called; where that fails the probe switches the variant off and says so.
With TRITON_INTERPRET=1 the kernels run on the CPU: so tests try them on any machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

from danlu.device.variants import FLASH, TRITON
from danlu.ops.attention import ATTENTION
from danlu.ops.cross_entropy import CROSS_ENTROPY
from danlu.ops.nvidia.flash import flash
from danlu.ops.rms_norm import RMS_NORM, NormPasses
from danlu.ops.rope import ROTATED_QKV, RotationPasses
from danlu.ops.swiglu import SWIGLU, SwigluPasses


def add_variants() -> None:
    """Put the variants beside the others; whether they compute rightly, the probe says."""
    ATTENTION.add(FLASH, flash)
    CROSS_ENTROPY.add(TRITON, _late("loss", "cross_entropy_sum"))
    RMS_NORM.add(TRITON, NormPasses(_late("norm", "forward"), _late("norm", "backward")))
    SWIGLU.add(TRITON, SwigluPasses(_late("gating", "forward"), _late("gating", "backward")))
    ROTATED_QKV.add(
        TRITON, RotationPasses(_late("rotation", "forward"), _late("rotation", "backward"))
    )


def _late(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module that imports Triton, which happens at the first call."""

    def call(*arguments: Any, **named: Any) -> Any:
        return _function(module, name)(*arguments, **named)

    return call


@lru_cache(maxsize=64)
def _function(module: str, name: str) -> Callable[..., Any]:
    # Triton 3.9 warns where nobody says whether a product and a sum may be rounded once.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    function: Callable[..., Any] = getattr(import_module(f"{__name__}.{module}_kernels"), name)
    return function
