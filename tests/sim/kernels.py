"""What an Ascend 910B computes: aten operations, and the dtypes that its kernels take.

An operation stands here if danlu uses it and op-plugin, which gives torch_npu its kernels, has one
(op_plugin/config/op_plugin_functions.yaml; for copies Ascend/pytorch itself). Its dtypes are those
that CANN documents for Atlas A2 on the page of the aclnn function that op-plugin calls there
(hicann/ops-nn and hicann/ops-math, docs/aclnn*.md). All of them as they were in August 2026; what
torch_npu's own tables of native functions leave out, bf16 for mm say, is on those pages.

All of this was read and none of it tried on a card. `assumed` are the dtypes of which no page says
all that danlu relies on. Older releases of CANN may take less.

float64 is missing on purpose: most pages that have it mean the card's small AI CPU. So are int16
and complex numbers, which danlu does not have. Attention is a single operation on the card; the
simulation takes it apart into products, a softmax and the like.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16})
SINGLE = frozenset({torch.float32})
HALVES = frozenset({torch.float16, torch.bfloat16})
WIDE = frozenset({torch.int32, torch.int64})
INTEGERS = WIDE | {torch.int8, torch.uint8}
NUMBERS = FLOATS | INTEGERS
ALL = NUMBERS | {torch.bool}


class Kernel(NamedTuple):
    """The dtypes of an operation's tensors.

    dtypes: of what it reads and writes; any may also write bool, as comparisons do. indices: of
    places in another tensor. assumed: those of `dtypes` that are not quite documented. results:
    what it writes besides.
    """

    dtypes: frozenset[torch.dtype]
    indices: frozenset[torch.dtype] = WIDE
    assumed: frozenset[torch.dtype] = frozenset()
    results: frozenset[torch.dtype] = frozenset()


# By aten's name, without the overload and without the underscore of what works in place.
KERNELS: dict[str, Kernel] = {
    # Products.
    **dict.fromkeys(("addmm", "bmm", "mm"), Kernel(FLOATS)),
    # Arithmetic, number by number.
    **dict.fromkeys(("abs", "add", "div", "mul"), Kernel(ALL)),
    # That uint8 wraps around below zero, as int4's weights need it (ops/frozen/int4.py),
    # is not said.
    "sub": Kernel(ALL, assumed=frozenset({torch.uint8})),
    **dict.fromkeys(("cos", "log", "reciprocal", "rsqrt", "sin", "sqrt"), Kernel(ALL)),
    **dict.fromkeys(("exp", "expm1"), Kernel(FLOATS | {torch.int64, torch.bool})),
    **dict.fromkeys(("addcmul", "clamp", "pow"), Kernel(NUMBERS)),
    "lerp": Kernel(FLOATS),
    "neg": Kernel(NUMBERS - {torch.uint8}),
    "round": Kernel(FLOATS | WIDE),
    **dict.fromkeys(("sigmoid", "silu"), Kernel(FLOATS)),
    # Bits.
    **dict.fromkeys(("bitwise_and", "bitwise_not", "bitwise_or"), Kernel(INTEGERS | {torch.bool})),
    **dict.fromkeys(("__lshift__", "__rshift__"), Kernel(INTEGERS)),
    # Comparisons and choices.
    **dict.fromkeys(("eq", "equal", "ge", "gt", "logical_not", "lt", "ne", "where"), Kernel(ALL)),
    "isneginf": Kernel(FLOATS),
    # Sums, largest numbers, orders.
    **dict.fromkeys(("all", "amax", "aminmax", "max", "sort", "sum"), Kernel(ALL)),
    **dict.fromkeys(("argmax", "cumsum", "mean", "topk"), Kernel(NUMBERS)),
    "linalg_vector_norm": Kernel(FLOATS),
    "searchsorted": Kernel(NUMBERS - {torch.bfloat16}),
    # Softmax and what is built on it.
    **dict.fromkeys(("_log_softmax", "_log_softmax_backward_data"), Kernel(FLOATS)),
    **dict.fromkeys(("_softmax", "_softmax_backward_data"), Kernel(FLOATS)),
    **dict.fromkeys(("nll_loss_backward", "nll_loss_forward"), Kernel(FLOATS)),
    # Reading and writing by place.
    **dict.fromkeys(("gather", "index_add", "index_copy", "index_select"), Kernel(ALL)),
    **dict.fromkeys(("index", "_index_put_impl"), Kernel(ALL, indices=WIDE | {torch.bool})),
    "embedding_dense_backward": Kernel(FLOATS),
    "index_fill": Kernel(FLOATS | WIDE | {torch.bool}),
    "nonzero": Kernel(ALL),
    "scatter_add": Kernel(ALL),
    # Filling, copying, converting.
    "arange": Kernel(FLOATS | WIDE),
    **dict.fromkeys(("cat", "copy", "fill", "tril", "zero"), Kernel(ALL)),
    "masked_fill": Kernel(ALL - {torch.uint8}),
    "uniform": Kernel(NUMBERS),
    # Fused: what a page says of each argument is in limits.py.
    **dict.fromkeys(
        (
            "npu::npu_add_rms_norm",
            "npu::npu_rms_norm",
            "npu::npu_rms_norm_backward",
            "npu::npu_rotary_mul",
            "npu::npu_swiglu",
            "npu::npu_swiglu_backward",
        ),
        Kernel(FLOATS),
    ),
    **dict.fromkeys(
        ("npu::npu_fusion_attention", "npu::npu_fusion_attention_grad"),
        Kernel(FLOATS | {torch.bool, torch.uint8}),
    ),
    "npu::npu_scatter_pa_kv_cache": Kernel(FLOATS | WIDE),
    "npu::npu_fused_infer_attention_score": Kernel(
        HALVES | {torch.bool, torch.int8, torch.uint8, torch.int32}, results=SINGLE
    ),
    "npu::npu_weight_quant_batchmatmul": Kernel(HALVES | {torch.int8, torch.int32}),
    "npu::npu_grouped_matmul": Kernel(FLOATS | {torch.int8, torch.int32, torch.int64}),
    "npu::npu_top_k_top_p": Kernel(FLOATS | {torch.int32}),
    # A number for the host: bytes are copied, no kernel computes.
    "_local_scalar_dense": Kernel(ALL),
}
