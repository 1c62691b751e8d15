"""Products with matrices that lie in memory as the CPU's library reads them. No gradients.

Before each 16-bit product oneDNN reorders the matrix. For a whole step of training that is little;
for one new token it takes longer than the product (docs/performance.md). A packed matrix has been
reordered once (by aten's `mkldnn` operations, as its compiler uses them).
"""

from __future__ import annotations

import torch
from torch import Tensor


def can_pack(weight: Tensor) -> bool:
    """Return whether there is a packed form of a matrix: bf16, on a CPU whose library has it."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def pack(weight: Tensor) -> Tensor:
    """Return a packed copy of a matrix [out, in] that `can_pack`."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)  # type: ignore[no-any-return]


def packed_linear(x: Tensor, packed: Tensor) -> Tensor:
    """Multiply x [rows, in] with a packed matrix -> [rows, out]."""
    if not len(x):
        return x.new_empty(0, packed.shape[0])
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")  # type: ignore[no-any-return]
