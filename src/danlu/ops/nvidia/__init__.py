"""Variants for NVIDIA cards: kernels in Triton, and what torch's CUDA build has besides.

Triton comes with torch's CUDA wheels, not with those for the CPU. So the modules of kernels are
imported when one is first called; where that fails the probe switches the variant off and says so.
With TRITON_INTERPRET=1 the kernels run on the CPU: so tests try them on any machine.
"""

from __future__ import annotations

import torch

from danlu.device.variants import CUDA_GRAPH, FLASH, FLASH3, FLASH4, SCALED_MM, TRITON
from danlu.ops.attention import ATTENTION
from danlu.ops.cache.graph import GRAPH
from danlu.ops.cache.paged_store import CACHE
from danlu.ops.cross_entropy import CROSS_ENTROPY
from danlu.ops.expert_products import EXPERT_LINEAR, ExpertPasses
from danlu.ops.frozen.expert_bits import EXPERT_BITS, ExpertBits
from danlu.ops.frozen.fp8 import FP8_LINEAR
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.quantized import INT8_LINEAR
from danlu.ops.fused_linear import FUSED_LINEAR, FusedLinear
from danlu.ops.grouped import GROUPED_LINEAR
from danlu.ops.nvidia.cuda_graph import CudaRecorder
from danlu.ops.nvidia.flash import FLASH_3, FLASH_4, flash
from danlu.ops.nvidia.frozen.few_bits_words import INT4_WORDS, INT8_WORDS, is_16_bits
from danlu.ops.nvidia.late_import import late
from danlu.ops.nvidia.single_row import is_single_row
from danlu.ops.nvidia.triton_pages import TritonPages
from danlu.ops.rms_norm import RMS_NORM, NormPasses
from danlu.ops.rope import ROTATED_QKV, RotationPasses
from danlu.ops.sampling.draw import DRAW
from danlu.ops.swiglu import SWIGLU, SwigluPasses


def add_variants() -> None:
    """Put the variants beside the others; whether they compute rightly, the probe says."""
    ATTENTION.add(FLASH, flash)
    ATTENTION.add(FLASH3, FLASH_3)
    ATTENTION.add(FLASH4, FLASH_4)
    CACHE.add(TRITON, TritonPages)
    GRAPH.add(CUDA_GRAPH, CudaRecorder)
    FP8_LINEAR.add(SCALED_MM, late("frozen.fp8", "fp8_linear"))
    GROUPED_LINEAR.add(TRITON, late("grouped", "grouped_linear"))
    EXPERT_LINEAR.add(
        TRITON,
        ExpertPasses(
            late("grouped", "expert_linear"),
            late("grouped", "expert_input_gradient"),
            EXPERT_LINEAR.variants["by_expert"].weight_gradient,
            torch.int32,
        ),
    )
    FUSED_LINEAR.add(TRITON, FusedLinear(late("row", "row_linear"), takes=is_single_row))
    DRAW.add(TRITON, late("drawing", "draw"))
    INT8_LINEAR.add(TRITON, INT8_WORDS)
    INT4_LINEAR.add(TRITON, INT4_WORDS)
    of_experts = late("frozen.expert_bits", "expert_linear")
    EXPERT_BITS.add(
        TRITON,
        {
            name: ExpertBits(form, of_experts, lambda dtype, _outputs: is_16_bits(dtype))
            for name, form in (("int8", INT8_WORDS), ("int4", INT4_WORDS))
        },
    )
    CROSS_ENTROPY.add(TRITON, late("loss", "cross_entropy_sum"))
    RMS_NORM.add(TRITON, NormPasses(late("norm", "forward"), late("norm", "backward")))
    SWIGLU.add(TRITON, SwigluPasses(late("gating", "forward"), late("gating", "backward")))
    ROTATED_QKV.add(
        TRITON, RotationPasses(late("rotation", "forward"), late("rotation", "backward"))
    )
