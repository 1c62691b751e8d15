"""The largest logits of each row, by a kernel for bf16 (native/kernels/largest.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.native.library import KernelCall, Kind, Pointer, Size, library


class _Largest(KernelCall):
    kind = Kind.LARGEST
    _fields_ = (
        *((name, Pointer) for name in ("numbers", "values", "places")),
        *((name, Size) for name in ("rows", "width", "count")),
    )


def largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See `ops.largest`."""
    native = library()
    if rows.dtype != torch.bfloat16:
        values, places = rows.topk(count, dim=-1)
        return values, places
    rows = rows.contiguous()
    values = rows.new_empty(len(rows), count, dtype=torch.float32)
    places = rows.new_empty(len(rows), count, dtype=torch.int32)
    native.run(
        _Largest(
            numbers=rows,
            values=values,
            places=places,
            rows=len(rows),
            width=rows.shape[1],
            count=count,
        ),
    )
    return values, places
