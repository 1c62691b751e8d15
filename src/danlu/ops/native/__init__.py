"""Variants for the CPU: kernels in C++ (native/), called by ctypes.

Where the library was not built, or not for this processor, they say so, and others are taken.
"""

from __future__ import annotations

from danlu.device.variants import NATIVE
from danlu.ops.attention import ATTENTION
from danlu.ops.cross_entropy import CROSS_ENTROPY
from danlu.ops.native.elementwise import GATING, NORM, ROTATION
from danlu.ops.native.in_place_loss import cross_entropy_sum
from danlu.ops.native.packed_segments import packed_attention
from danlu.ops.rms_norm import RMS_NORM
from danlu.ops.rope import ROTATED_QKV
from danlu.ops.swiglu import SWIGLU


def add_variants() -> None:
    """Put the variants beside the others; whether they compute rightly, the probe says."""
    RMS_NORM.add(NATIVE, NORM)
    SWIGLU.add(NATIVE, GATING)
    ROTATED_QKV.add(NATIVE, ROTATION)
    CROSS_ENTROPY.add(NATIVE, cross_entropy_sum)
    ATTENTION.add(NATIVE, packed_attention)
