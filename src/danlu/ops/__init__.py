"""The few hot operations of Qwen3: their variants, and one table of what a device computes with.

`reference.py` holds the readable twin of each; tests compare value and gradient. Which variant runs
where is chosen once for a kind of device, by a probe (`choice.py`), and nowhere else. Where
gradients are off the backward passes are not set up: that costs more than a small operation
itself. All other rooms import from here only.
"""

from __future__ import annotations

from danlu.ops import ascend, native, nvidia
from danlu.ops.accumulate import accumulate, hand_over
from danlu.ops.adamw import AdamW, Moments
from danlu.ops.attention import Segments, segment_attention
from danlu.ops.cache.graph import Recorder, Replay, recorder_for
from danlu.ops.cache.key_value_store import Cache, CacheStep
from danlu.ops.cache.paged_store import CACHE
from danlu.ops.choice import NotHere, OpsTable, Tried, examine_operations, ops_table, take_variants
from danlu.ops.cross_entropy import cross_entropy_rows, cross_entropy_sum
from danlu.ops.expert_products import (
    expert_ends,
    expert_input_gradient,
    expert_linear,
    expert_mix,
    expert_pieces,
    expert_weight_gradient,
)
from danlu.ops.frozen.few_bits_weight import QuantizedWeight
from danlu.ops.frozen.fp8 import (
    FP8_MULTIPLE,
    Fp8Matrix,
    empty_fp8,
    fp8_input_gradient,
    fp8_linear,
    multiplies_fp8,
    quantize_fp8,
)
from danlu.ops.frozen.packed import base_packing_for, packing_for
from danlu.ops.fused_linear import fused_linear, is_fused
from danlu.ops.grouped import grouped_linear, multiplies_groups
from danlu.ops.look_up import look_up
from danlu.ops.low_rank import (
    Blocks,
    add_input_gradient,
    add_low_rank,
    low_rank_gradients,
    multiplies_whole,
)
from danlu.ops.product import Stream, begin_linear, end_linear, norms_add
from danlu.ops.rms_norm import rms_norm, rms_norm_backward
from danlu.ops.rope import rotary_table, rotated_qkv
from danlu.ops.sampling.draw import MOST_DRAWN, Draw, draw, draws_at_once, draws_rows
from danlu.ops.sampling.largest import largest
from danlu.ops.swiglu import swiglu, swiglu_backward

ascend.add_variants()
native.add_variants()
nvidia.add_variants()
cache_of = CACHE.on

__all__ = [
    "FP8_MULTIPLE",
    "MOST_DRAWN",
    "AdamW",
    "Blocks",
    "Cache",
    "CacheStep",
    "Draw",
    "Fp8Matrix",
    "Moments",
    "NotHere",
    "OpsTable",
    "QuantizedWeight",
    "Recorder",
    "Replay",
    "Segments",
    "Stream",
    "Tried",
    "accumulate",
    "add_input_gradient",
    "add_low_rank",
    "base_packing_for",
    "begin_linear",
    "cache_of",
    "cross_entropy_rows",
    "cross_entropy_sum",
    "draw",
    "draws_at_once",
    "draws_rows",
    "empty_fp8",
    "end_linear",
    "examine_operations",
    "expert_ends",
    "expert_input_gradient",
    "expert_linear",
    "expert_mix",
    "expert_pieces",
    "expert_weight_gradient",
    "fp8_input_gradient",
    "fp8_linear",
    "fused_linear",
    "grouped_linear",
    "hand_over",
    "is_fused",
    "largest",
    "look_up",
    "low_rank_gradients",
    "multiplies_fp8",
    "multiplies_groups",
    "multiplies_whole",
    "norms_add",
    "ops_table",
    "packing_for",
    "quantize_fp8",
    "recorder_for",
    "rms_norm",
    "rms_norm_backward",
    "rotary_table",
    "rotated_qkv",
    "segment_attention",
    "swiglu",
    "swiglu_backward",
    "take_variants",
]
