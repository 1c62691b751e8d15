"""Variants that call Ascend's fused kernels, as torch_npu has them under `torch.ops.npu`.

Names, layouts and limits are those of op-plugin's pages (docs/context/torch_npu-npu_*.md, August
2026) and of the schemas in the wheels 2.10.0.post4 and 2.14.0, which are the same for all that is
called here. Arguments go by keyword, and only those that are needed: older wheels lack the last
ones.
"""

from __future__ import annotations

from danlu.device.variants import ASCEND
from danlu.ops.ascend.apart import APART
from danlu.ops.ascend.expert_matmul import EXPERTS
from danlu.ops.ascend.few_bits import INT4, INT8
from danlu.ops.ascend.few_bits_experts import FEW_BITS_EXPERTS
from danlu.ops.ascend.fused_draw import draw
from danlu.ops.ascend.fused_norm import NORM, add_norm
from danlu.ops.ascend.fused_rotation import ROTATION
from danlu.ops.ascend.fused_swiglu import SWIGLU_PASSES
from danlu.ops.ascend.fusion_attention import fusion_attention
from danlu.ops.ascend.grouped_matmul import grouped_linear
from danlu.ops.ascend.npu_graph import record
from danlu.ops.ascend.pages import AscendPages
from danlu.ops.attention import ATTENTION
from danlu.ops.cache.graph import GRAPH
from danlu.ops.cache.paged_store import CACHE
from danlu.ops.expert_products import EXPERT_LINEAR
from danlu.ops.frozen.expert_bits import EXPERT_BITS
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.quantized import INT8_LINEAR
from danlu.ops.grouped import GROUPED_LINEAR
from danlu.ops.low_rank import LOW_RANK
from danlu.ops.product import ADD_NORM
from danlu.ops.rms_norm import RMS_NORM
from danlu.ops.rope import ROTATED_QKV
from danlu.ops.sampling.draw import DRAW
from danlu.ops.swiglu import SWIGLU


def add_variants() -> None:
    """Put the variants beside the others; whether they compute rightly, the probe says."""
    RMS_NORM.add(ASCEND, NORM)
    LOW_RANK.add(ASCEND, APART)
    ADD_NORM.add(ASCEND, add_norm)
    SWIGLU.add(ASCEND, SWIGLU_PASSES)
    ROTATED_QKV.add(ASCEND, ROTATION)
    ATTENTION.add(ASCEND, fusion_attention)
    CACHE.add(ASCEND, AscendPages)
    GRAPH.add(ASCEND, lambda: record)
    GROUPED_LINEAR.add(ASCEND, grouped_linear)
    EXPERT_LINEAR.add(ASCEND, EXPERTS)
    DRAW.add(ASCEND, draw)
    INT8_LINEAR.add(ASCEND, INT8)
    INT4_LINEAR.add(ASCEND, INT4)
    EXPERT_BITS.add(ASCEND, FEW_BITS_EXPERTS)
