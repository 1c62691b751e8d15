"""Which variants of the hot operations suit a kind of device, as data. No torch here.

`ops` holds the variants and tries them; planning reads from here what a device that is not at hand
would compute with, and what its attention keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The readable twin that every operation has; it is taken where no other variant computes rightly.
REFERENCE = "reference"
# Those that call Ascend's fused kernels.
ASCEND = "ascend"
# Those that are written in Triton, for NVIDIA cards.
TRITON = "triton"
# torch's FlashAttention for a whole packed batch, and those that are packages of their own.
FLASH = "flash"
FLASH3 = "flash3"
FLASH4 = "flash4"
# torch's fp8 product with a scale for each row, and a kernel in Triton that makes its operand.
SCALED_MM = "scaled_mm"
# torch's product of groups of rows, each with a matrix of its own.
GROUPED_MM = "grouped_mm"
# torch's recordings of work on a stream.
CUDA_GRAPH = "cuda_graph"
# Kernels in C++ for the CPU (native/).
NATIVE = "native"
# The CPU's library, with matrices that lie as it reads them.
ONEDNN = "onednn"

# Each operation's variants in order of preference, the twin excepted.
_EVERYWHERE: Mapping[str, tuple[str, ...]] = {
    "rms_norm": ("torch",),
    "swiglu": ("torch",),
    "cross_entropy": ("in_place",),
    "graph": (),
    "grouped_linear": (),
    "fused_linear": (),
    "largest": (),
    "look_up": (),
    "draw": (),
    "add_norm": (),
    "fp8_linear": (),
    "nf4_linear": ("floats",),
    "expert_bits": (),
}
_CPU: Mapping[str, tuple[str, ...]] = {
    "rms_norm": (NATIVE, "torch"),
    "swiglu": (NATIVE, "torch"),
    "cross_entropy": (NATIVE, "in_place"),
    "attention": (NATIVE, "float32", "sdpa"),
    "rotated_qkv": (NATIVE, "in_parts", "as_one"),
    "cache": (NATIVE, "by_head", "paged"),
    "graph": (NATIVE,),
    "fused_linear": (NATIVE,),
    "grouped_linear": ("by_group",),
    "expert_linear": ("by_expert",),
    "expert_mix": ("bag", "gathered"),
    "largest": (NATIVE,),
    "look_up": (NATIVE,),
    "residual": ("last",),
    "low_rank": (NATIVE, "by_target"),
    "accumulate": ("in_pieces",),
    "adamw": ("fused", "unfused"),
    "int8_linear": (NATIVE, "few_rows", "floats"),
    "int4_linear": (NATIVE, "few_rows", "floats"),
    "packed_linear": (NATIVE, ONEDNN),
    "packed_base": (ONEDNN,),
}
_CUDA: Mapping[str, tuple[str, ...]] = {
    "rms_norm": (TRITON, "torch"),
    "swiglu": (TRITON, "torch"),
    # FlashAttention 4 makes its kernels in each process anew (docs/installation.md): whoever wants
    # it asks for it by name.
    "attention": (FLASH3, FLASH, "sdpa"),
    "cross_entropy": (TRITON, "in_place"),
    "rotated_qkv": (TRITON, "as_one"),
    "cache": (TRITON, "paged"),
    "graph": (CUDA_GRAPH,),
    "grouped_linear": (TRITON,),
    "expert_linear": (GROUPED_MM, TRITON, "by_expert"),
    "expert_mix": ("gathered",),
    "fused_linear": (TRITON,),
    "draw": (TRITON, "torch"),
    "fp8_linear": (SCALED_MM,),
    "residual": ("in_product", "last"),
    "low_rank": ("as_one", "by_target"),
    "accumulate": ("at_once",),
    "adamw": ("fused", "unfused"),
    "int8_linear": (TRITON, "floats"),
    "int4_linear": (TRITON, "floats"),
    "expert_bits": (TRITON,),
    "packed_linear": (),
    "packed_base": (),
}
_NPU: Mapping[str, tuple[str, ...]] = {
    "rms_norm": (ASCEND, "torch"),
    "cross_entropy": ("in_place",),
    "swiglu": (ASCEND, "torch"),
    "rotated_qkv": (ASCEND, "as_one"),
    "attention": (ASCEND, "sdpa"),
    "cache": (ASCEND, "paged"),
    "graph": (ASCEND,),
    "grouped_linear": (ASCEND,),
    "expert_linear": (ASCEND, "by_expert"),
    "fused_linear": (),
    "draw": (ASCEND, "torch"),
    # A product that adds a matrix is four kernels there, which pass over the sum in fp32
    # (`aclnnAddmm` with 16-bit numbers, ops-nn, November 2026): adding behind it is one more.
    "residual": ("last",),
    "low_rank": (ASCEND, "by_target"),
    "add_norm": (ASCEND,),
    "fp8_linear": (),
    "int4_linear": (ASCEND, "floats"),
    "int8_linear": (ASCEND, "floats"),
    "expert_bits": (ASCEND,),
    # op-plugin's `_fused_adamw_` ignores `found_inf` (its sources of August 2026).
    "adamw": ("unfused",),
}
_VARIANTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {**_EVERYWHERE, **_CPU},
    "cuda": {**_EVERYWHERE, **_CUDA},
    "npu": {**_EVERYWHERE, **_CUDA, **_NPU},
    # Shapes alone, which no package of others computes.
    "meta": {**_EVERYWHERE, **_CUDA, "attention": (FLASH, "sdpa")},
}


def preferred_variants(kind: str) -> Mapping[str, tuple[str, ...]]:
    """Return, for every operation, the variants that suit a kind of device, the best first."""
    return _VARIANTS.get(kind, _VARIANTS["cuda"])


@dataclass(frozen=True, kw_only=True)
class AttentionFacts:
    """What attention over whole segments keeps for its backward pass, beside inputs and output.

    number_bytes: of a number of these, None as the model computes. head_token_bytes: of each head
    and token. segment_bytes: of each segment. by_segment: each is a call of its own, and the
    outputs are joined in a copy. half_only: what attends to all at once is for 16 bits.
    """

    number_bytes: int | None = None
    head_token_bytes: int = 4  # the softmax's normaliser
    segment_bytes: int = 0
    by_segment: bool = True
    half_only: bool = False

    def calls_segments(self, number_bytes: int) -> bool:
        """Whether each segment is a call, where the model computes in so many bytes."""
        return self.by_segment or (self.half_only and number_bytes > 2)


def fused_by(kind: str, variants: Mapping[str, str] | None = None) -> str:
    """Name the kernels that compute norms, rotation and swiglu, one each.

    They are ascend, triton, native, or none: "". variants: those that were chosen; None: the usual
    ones. On accelerators an adapter's products are then made for all targets at once. Those in
    C++ are for 16 bits.
    """
    usual = {name: names[0] for name, names in preferred_variants(kind).items() if names}
    chosen = variants or usual
    names = {chosen.get(name, "") for name in ("rms_norm", "rotated_qkv", "swiglu")}
    if names == {NATIVE}:
        return NATIVE
    is_fused = names in ({ASCEND}, {TRITON}) and chosen.get("low_rank") in ("as_one", ASCEND)
    return names.pop() if is_fused else ""


def attention_facts(kind: str, variant: str | None = None) -> AttentionFacts:
    """Return the facts of a variant of `attention` on a kind of device; None: the usual one."""
    variant = variant or preferred_variants(kind)["attention"][0]
    if variant == "float32":
        return AttentionFacts(number_bytes=4)
    if kind == "npu":
        # Its kernel keeps the softmax's maxima and sums, eight fp32 numbers each. Called for each
        # segment, as `scaled_dot_product_attention`, torch_npu keeps a causal mask of 2,048 x 2,048
        # booleans a call besides (op-plugin's sources of August 2026).
        if variant == ASCEND:
            return AttentionFacts(head_token_bytes=64, by_segment=False)
        return AttentionFacts(head_token_bytes=64, segment_bytes=2048 * 2048)
    at_once = variant in (FLASH, FLASH3, FLASH4, NATIVE)
    return AttentionFacts(by_segment=not at_once, half_only=at_once)
