"""Variants for the CPU: kernels in C++ (native/), called by ctypes.

Where the library was not built, or does not suit the processor, the probe says so.
"""

from __future__ import annotations

from danlu.device.variants import NATIVE
from danlu.ops.attention import ATTENTION
from danlu.ops.cache.graph import GRAPH
from danlu.ops.cache.paged_store import CACHE
from danlu.ops.cross_entropy import CROSS_ENTROPY
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.packed import PACKED_LINEAR, Packing
from danlu.ops.frozen.quantized import INT8_LINEAR
from danlu.ops.fused_linear import FUSED_LINEAR
from danlu.ops.look_up import LOOK_UP
from danlu.ops.low_rank import LOW_RANK
from danlu.ops.native.elementwise import GATING, NORM, ROTATION
from danlu.ops.native.in_place_loss import cross_entropy_sum
from danlu.ops.native.narrow import BY_TARGET
from danlu.ops.native.native_bits import NATIVE_INT4, NATIVE_INT8
from danlu.ops.native.native_cache import NativeCache
from danlu.ops.native.native_largest import largest
from danlu.ops.native.native_linear import NATIVE_LINEAR, TILE, NativeMatrix, look_up
from danlu.ops.native.native_program import ProgramRecorder
from danlu.ops.native.packed_segments import packed_attention
from danlu.ops.rms_norm import RMS_NORM
from danlu.ops.rope import ROTATED_QKV
from danlu.ops.sampling.largest import LARGEST
from danlu.ops.swiglu import SWIGLU


def add_variants() -> None:
    """Put the variants beside the others; whether they compute rightly, the probe says."""
    CACHE.add(NATIVE, NativeCache)
    FUSED_LINEAR.add(NATIVE, NATIVE_LINEAR)
    GRAPH.add(NATIVE, ProgramRecorder)
    LARGEST.add(NATIVE, largest)
    INT4_LINEAR.add(NATIVE, NATIVE_INT4)
    INT8_LINEAR.add(NATIVE, NATIVE_INT8)
    LOOK_UP.add(NATIVE, look_up)
    PACKED_LINEAR.add(NATIVE, Packing(NativeMatrix, looks_up=True, expert_multiple=TILE))
    RMS_NORM.add(NATIVE, NORM)
    SWIGLU.add(NATIVE, GATING)
    ROTATED_QKV.add(NATIVE, ROTATION)
    CROSS_ENTROPY.add(NATIVE, cross_entropy_sum)
    ATTENTION.add(NATIVE, packed_attention)
    LOW_RANK.add(NATIVE, BY_TARGET)
