"""Variants for the CPU: kernels in C++ (native/), called by ctypes.

Where the library was not built, or does not suit the processor, the probe says so.
"""

from __future__ import annotations

from danlu.device.variants import NATIVE
from danlu.ops.cache.graph import GRAPH
from danlu.ops.cache.paged_store import CACHE
from danlu.ops.frozen.packed import PACKED_LINEAR, Packing
from danlu.ops.fused_linear import FUSED_LINEAR
from danlu.ops.look_up import LOOK_UP
from danlu.ops.native.native_cache import NativeCache
from danlu.ops.native.native_largest import largest
from danlu.ops.native.native_linear import NATIVE_LINEAR, NativeMatrix, look_up
from danlu.ops.native.native_program import ProgramRecorder
from danlu.ops.sampling.largest import LARGEST


def add_variants() -> None:
    """Put the variants beside the others; whether they compute rightly, the probe says."""
    CACHE.add(NATIVE, NativeCache)
    FUSED_LINEAR.add(NATIVE, NATIVE_LINEAR)
    GRAPH.add(NATIVE, ProgramRecorder)
    LARGEST.add(NATIVE, largest)
    LOOK_UP.add(NATIVE, look_up)
    PACKED_LINEAR.add(NATIVE, Packing(NativeMatrix, looks_up=True))
