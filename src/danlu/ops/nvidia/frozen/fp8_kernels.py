"""fp8 products: a kernel rounds what is multiplied, by rows and in one pass; torch multiplies.

torch's `_scaled_mm` takes e4m3 with a scale for each row of either operand, and returns bf16: by
cuBLASLt's kernels on Hopper, by CUTLASS's on Ada and Blackwell (ATen/native/cuda/ScaledBlas.cpp).

Its fast sums keep 14 bits: measured on an H200 over 4,096 and 24,576 inputs, that adds 0.1 and
0.4 % to an error of 3.7 % from the operands, and makes products 4 to 26 % faster.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.ops.frozen.fp8 import FP8


def fp8_linear(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """See `ops.fp8_linear`."""
    if not len(x):
        return x.new_empty(0, len(values))
    rows, row_scales = quantized_rows(x)
    y = torch._scaled_mm(
        rows,
        values.t(),
        row_scales[:, None],
        scales[None],
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return y if y.dtype == x.dtype else y.to(x.dtype)


def quantized_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of [rows, size] to e4m3, as `reference.quantized_rows` does."""
    if x.stride(1) != 1:
        x = x.contiguous()
    num_rows, size = x.shape
    values = torch.empty(num_rows, size, dtype=FP8, device=x.device)
    scales = torch.empty(num_rows, device=x.device)
    block = triton.next_power_of_2(size)
    # Measured on an H200: rows of up to 16,384 numbers are fastest by 8 warps, wider ones by 16.
    warps = min(max(block // 512, 1), 8 if block <= 16384 else 16)
    _quantize_kernel[(num_rows,)](
        *(x, values, scales, x.stride(0), size), BLOCK=block, num_warps=warps
    )
    return values, scales


@triton.jit
def _quantize_kernel(x, values, scales, x_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < size
    numbers = tl.load(x + row * x_stride + places, mask=inside, other=0.0).to(tl.float32)
    most = tl.maximum(tl.max(tl.abs(numbers), axis=0), 1e-30)
    tl.store(scales + row, tl.math.div_rn(most, 448.0))
    # Nothing is beyond 448 by more than a rounding, and that rounds back to it.
    rounded = (numbers * (448.0 * tl.math.div_rn(1.0, most))).to(tl.float8e4nv)
    tl.store(values + row * size + places, rounded, mask=inside)
