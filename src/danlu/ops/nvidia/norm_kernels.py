"""RMS norm in one kernel each way: a program holds whole rows, so the backward pass finds a row's
inverse again while the row is there, and nothing of it is kept.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# How many programs share the rows where the weight's gradient is summed: each makes one addend.
_ADDENDS = 256


def forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops.rms_norm`."""
    rows = _rows(x)
    y = torch.empty_like(rows)
    if len(rows):
        size, block, warps = _widths(rows)
        _norm_kernel[(len(rows),)](
            rows, weight, y, rows.stride(0), size, eps, BLOCK=block, num_warps=warps
        )
    return y.view(x.shape)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """See `ops.rms_norm_backward`."""
    rows, grads = _rows(x), _rows(grad)
    dx = torch.empty_like(rows)
    size, block, warps = _widths(rows)
    programs = min(len(rows), _ADDENDS) if with_weight else len(rows)
    addends = rows.new_empty(programs, size, dtype=torch.float32) if with_weight else dx
    if len(rows):
        _norm_back_kernel[(programs,)](
            *(grads, rows, weight, dx, addends),
            *(grads.stride(0), rows.stride(0), len(rows), size, eps),
            BLOCK=block,
            WITH_WEIGHT=with_weight,
            num_warps=warps,
        )
    return dx.view(x.shape), addends.sum(0).to(weight.dtype) if with_weight else None


def _rows(x: Tensor) -> Tensor:
    """Return x as [rows, size], whose numbers lie side by side in a row."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _widths(rows: Tensor) -> tuple[int, int, int]:
    """Return a row's size, the power of two that holds it, and the warps that share it."""
    size = rows.shape[1]
    block = triton.next_power_of_2(size)
    return size, block, min(max(block // 512, 1), 16)


@triton.jit
def _norm_kernel(x, weight, y, x_stride, size, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < size
    values = tl.load(x + row * x_stride + places, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + places, mask=inside, other=0.0)
    inverse = tl.rsqrt(tl.sum(values * values, axis=0) / size + eps)
    # Rounded before the weight and behind it, as Hugging Face's model does.
    normed = (values * inverse).to(w.dtype).to(tl.float32)
    tl.store(y + row * size + places, normed * w.to(tl.float32), mask=inside)


# One kernel for any number of rows, where Triton would compile others for 1 and multiples of 16.
@triton.jit(do_not_specialize=["num_rows"])
def _norm_back_kernel(
    grad, x, weight, dx, addends,
    grad_stride, x_stride, num_rows, size, eps,
    BLOCK: tl.constexpr, WITH_WEIGHT: tl.constexpr,
):  # fmt: skip
    """With n = x * r and g = grad * weight: dx = r * (g - n * mean(g * n))."""
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    places = tl.arange(0, BLOCK)
    inside = places < size
    w = tl.load(weight + places, mask=inside, other=0.0).to(tl.float32)
    addend = tl.zeros((BLOCK,), dtype=tl.float32)
    for done in range(0, num_rows - tl.program_id(0), programs):
        row = program + done
        values = tl.load(x + row * x_stride + places, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + row * grad_stride + places, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.rsqrt(tl.sum(values * values, axis=0) / size + eps)
        n = values * inverse
        weighted = g * w
        mean = tl.sum(weighted * n, axis=0) / size
        tl.store(dx + row * size + places, (weighted - n * mean) * inverse, mask=inside)
        if WITH_WEIGHT:
            addend += g * n
    if WITH_WEIGHT:
        tl.store(addends + program * size + places, addend, mask=inside)
