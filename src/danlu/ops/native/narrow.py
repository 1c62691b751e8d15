"""An adapter's second products and their gradients in bf16: the wide side is read or written once.

Sums are in fp32 and rounded once. torch's own product of few columns is as fast the other way
(docs/performance.md), so it is kept there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.low_rank import LOW_RANK, Blocks, LowRankPasses
from danlu.ops.native.library import Float, KernelCall, Kind, Pointer, Size, library

_PLAIN = LOW_RANK.variants["by_target"]


class _Narrow(KernelCall):
    """t = scale * x b."""

    kind = Kind.NARROW
    _fields_ = (
        *((name, Pointer) for name in ("x", "t", "b", "sums")),
        *((name, Size) for name in ("rows", "size", "rank", "x_row", "t_row", "b_row")),
        ("scale", Float),
    )


class _Widen(_Narrow):
    """x += scale * t b^T."""

    kind = Kind.WIDEN


class _Outer(_Narrow):
    """sums = scale * x^T t."""

    kind = Kind.OUTER


def _run(
    kernel: type[_Narrow],
    x: Tensor,
    t: Tensor,
    scale: float,
    *,
    b: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    sizes = (*x.shape, t.shape[1], x.stride(0), t.stride(0), 0 if b is None else b.stride(0))
    library().run(kernel(x, t, b, sums, *sizes, scale))


def _fits(wide: Tensor, t: Tensor, blocks: Blocks) -> bool:
    """Whether the kernels can read and write what is there."""
    tensors = (wide, t, *blocks.parts)
    return all(
        tensor.dtype == torch.bfloat16 and tensor.stride(1) == 1 for tensor in tensors
    ) and all(b.shape[1] % 2 == 0 for b in blocks.parts)


def _add(y: Tensor, t: Tensor, blocks: Blocks, scaling: float) -> None:
    if not _fits(y, t, blocks):
        return _PLAIN.add(y, t, blocks, scaling)
    for b, (out, ranks) in zip(blocks.parts, blocks.places, strict=True):
        _run(_Widen, y[:, out], t[:, ranks], scaling, b=b)


def _gradients(
    dy: Tensor, t: Tensor, blocks: Blocks, scaling: float
) -> tuple[Tensor, list[Tensor]]:
    if not _fits(dy, t, blocks):
        return _PLAIN.gradients(dy, t, blocks, scaling)
    dt, dbs = torch.empty_like(t), []
    for b, (out, ranks) in zip(blocks.parts, blocks.places, strict=True):
        _run(_Narrow, dy[:, out], dt[:, ranks], scaling, b=b)
        db = b.new_empty(b.shape, dtype=torch.float32)
        _run(_Outer, dy[:, out], t[:, ranks], scaling, sums=db)
        dbs.append(db)
    return dt, dbs


BY_TARGET = LowRankPasses(_add, _gradients, _PLAIN.add_input, takes_whole=False)
