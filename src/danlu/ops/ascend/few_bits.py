"""Products with int8 weights as they are stored: the kernel makes floats of them on its way."""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.quantized import int8_floats

# The most rows or columns that the kernel takes; Qwen3's output matrix has more.
_LARGEST_SIDE = 65535


def int8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """Multiply x [rows, in] with an int8 weight [out, in]; the kernel takes 16-bit x only."""
    if x.dtype == torch.float32 or not len(x):
        return int8_floats(x, values, scales)
    parts = [
        torch.ops.npu.npu_weight_quant_batchmatmul(x, some.t(), scale)
        for some, scale in zip(
            values.split(_LARGEST_SIDE), scales.split(_LARGEST_SIDE), strict=True
        )
    ]
    joined: Tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return joined
