"""Products with weights in the kernels' own order (native/kernels/linear.cpp). No gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops import reference
from danlu.ops.fused_linear import FusedLinear, Pair
from danlu.ops.native.library import Float, Int, KernelCall, Kind, Pointer, Size, library

# Outputs that lie together, as in native/kernels.h.
_TILE = 32


class _Pack(KernelCall):
    kind = Kind.PACK
    _fields_ = (("weight", Pointer), ("packed", Pointer), ("outputs", Size), ("inputs", Size))


class _Linear(KernelCall):
    kind = Kind.LINEAR
    _fields_ = (
        *((name, Pointer) for name in ("x", "weight", "norm", "residual", "y", "a", "b", "ends")),
        *((name, Size) for name in ("rows", "inputs", "outputs", "rank")),
        ("eps", Float),
        ("gated", Int),
    )


class NativeMatrix:
    """A bf16 weight [out, in] in the kernels' own order; `in` is even. Calling it multiplies."""

    def __init__(self, weight: Tensor) -> None:
        self.outputs, self.inputs = weight.shape
        self.packed = weight.new_empty(-(-self.outputs // _TILE) * _TILE, self.inputs)
        weight = weight.detach().contiguous()
        library().run(_Pack(weight, self.packed, self.outputs, self.inputs))

    def __call__(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return _native(x, self, None, 0.0, False, None, None)


def _native(
    x: Tensor,
    weight: NativeMatrix,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    pair: Pair | None,
) -> Tensor:
    x = x.contiguous()
    y = x.new_empty(len(x), weight.outputs)
    a, b, ends = pair or (None, None, None)
    library().run(
        _Linear(
            x=x,
            weight=weight.packed,
            norm=norm,
            residual=residual,
            y=y,
            a=a,
            b=b,
            ends=ends,
            rows=len(x),
            inputs=weight.inputs,
            outputs=weight.outputs,
            rank=0 if a is None else a.shape[2],
            eps=eps,
            gated=gated,
        ),
    )
    return y


def _linear(
    x: Tensor,
    weight: NativeMatrix | Tensor,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    pair: Pair | None,
) -> Tensor:
    if isinstance(weight, Tensor):  # not bf16: only the probe comes here
        return reference.fused_linear(x, weight, norm, eps, gated, residual, pair)
    return _native(x, weight, norm, eps, gated, residual, pair)


def _prepared(weight: Tensor) -> NativeMatrix | Tensor:
    library()
    return NativeMatrix(weight) if weight.dtype == torch.bfloat16 else weight


NATIVE_LINEAR = FusedLinear(
    _linear, takes=lambda rows, weight: isinstance(weight, NativeMatrix), prepared=_prepared
)


class _LookUp(KernelCall):
    kind = Kind.LOOK_UP
    _fields_ = (
        *((name, Pointer) for name in ("table", "numbers", "out")),
        ("rows", Size),
        ("row_bytes", Size),
        ("is_packed", Int),
    )


def look_up(table: NativeMatrix | Tensor, numbers: Tensor) -> Tensor:
    """See `ops.look_up`."""
    native = library()
    if isinstance(table, NativeMatrix):
        stored, width = table.packed, table.inputs
    elif table.is_contiguous():
        stored, width = table, table.shape[1]
    else:
        return F.embedding(numbers, table)
    if numbers.dtype != torch.int32:
        numbers = numbers.to(torch.int32)
    out = stored.new_empty(len(numbers), width)
    native.run(
        _LookUp(
            table=stored,
            numbers=numbers,
            out=out,
            rows=len(numbers),
            row_bytes=width * stored.itemsize,
            is_packed=isinstance(table, NativeMatrix),
        ),
    )
    return out
