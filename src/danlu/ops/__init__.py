"""The few hot operations of Qwen3, in plain PyTorch with hand-written backward passes.

`reference.py` holds the readable twin of each; tests compare value and gradient. An operation that
is computed differently on some devices decides so itself, by the device of its tensors; AdamW is
told by its `fused`. Where gradients are off the backward passes are not set up: that costs more
than a small operation itself. All other rooms import from here only.
"""

from __future__ import annotations

from danlu.ops.accumulate import accumulate
from danlu.ops.adamw import AdamW, Moments
from danlu.ops.attention import cached_attention, segment_attention
from danlu.ops.cross_entropy import cross_entropy_rows, cross_entropy_sum
from danlu.ops.key_value_store import append_to_cache, empty_cache
from danlu.ops.packed import can_pack, pack, packed_linear
from danlu.ops.quantized import (
    INT4_GROUP,
    empty_int4,
    empty_int8,
    int4_linear,
    int8_linear,
    quantize_int4,
    quantize_int8,
)
from danlu.ops.rms_norm import rms_norm, rms_norm_backward
from danlu.ops.rope import norm_rotate, rotary_table
from danlu.ops.swiglu import swiglu, swiglu_backward

__all__ = [
    "INT4_GROUP",
    "AdamW",
    "Moments",
    "accumulate",
    "append_to_cache",
    "cached_attention",
    "can_pack",
    "cross_entropy_rows",
    "cross_entropy_sum",
    "empty_cache",
    "empty_int4",
    "empty_int8",
    "int4_linear",
    "int8_linear",
    "norm_rotate",
    "pack",
    "packed_linear",
    "quantize_int4",
    "quantize_int8",
    "rms_norm",
    "rms_norm_backward",
    "rotary_table",
    "segment_attention",
    "swiglu",
    "swiglu_backward",
]
