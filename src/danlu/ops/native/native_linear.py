"""Products with weights in the kernels' own order (native/kernels/linear.cpp). No gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops import reference
from danlu.ops.expert_products import rows_of
from danlu.ops.frozen.few_bits_weight import QuantizedWeight
from danlu.ops.fused_linear import FusedLinear, Pair
from danlu.ops.native.library import Float, Int, KernelCall, Kind, Pointer, Size, library

# Outputs that lie together, as in native/kernels.h.
TILE = 32
# The forms there.
BF16, INT8, INT4 = 0, 1, 2


class _Pack(KernelCall):
    kind = Kind.PACK
    _fields_ = (("weight", Pointer), ("packed", Pointer), ("outputs", Size), ("inputs", Size))


class _Linear(KernelCall):
    kind = Kind.LINEAR
    _fields_ = (
        *((name, Pointer) for name in ("x", "weight", "scales", "norm", "residual")),
        *((name, Pointer) for name in ("y", "a", "b", "ends")),
        *((name, Size) for name in ("rows", "inputs", "outputs", "rank")),
        ("eps", Float),
        ("gated", Int),
        ("form", Int),
        ("is_float", Int),
    )


class KernelWeight(NamedTuple):
    """A weight [out, in] as the kernels read it. form: as in native/kernels.h."""

    packed: Tensor
    scales: Tensor | None
    outputs: int
    inputs: int
    form: int

    def part(self, start: int, outputs: int) -> KernelWeight:
        """Return some outputs, whole tiles of them."""
        if self.scales is None:
            return self._replace(packed=self.packed[start : start + outputs], outputs=outputs)
        tiles = slice(start // TILE, (start + outputs) // TILE)
        return self._replace(packed=self.packed[tiles], scales=self.scales[tiles], outputs=outputs)


@dataclass(frozen=True)
class FewBitsProduct:
    """A product with few bits, as a form has it: x [rows, in], floats too; filler is multiplied."""

    form: int
    in_word: int

    def __call__(self, x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        tiles, words, tile = values.shape
        if x.dtype not in (torch.bfloat16, torch.float32):
            return self(x.float(), values, scales).to(x.dtype)
        inputs = words * self.in_word
        if x.shape[1] != inputs:
            x = F.pad(x, (0, inputs - x.shape[1]))
        weight = KernelWeight(values, scales, tiles * tile, inputs, self.form)
        return _native(x, weight, None, 0.0, False, None, None)


class NativeMatrix:
    """A bf16 weight [out, in] in the kernels' own order; `in` is even. Calling it multiplies."""

    def __init__(self, weight: Tensor) -> None:
        self.outputs, self.inputs = weight.shape
        self.packed = weight.new_empty(-(-self.outputs // TILE) * TILE, self.inputs)
        weight = weight.detach().contiguous()
        library().run(_Pack(weight, self.packed, self.outputs, self.inputs))

    def __call__(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return _native(x, self.stored, None, 0.0, False, None, None)

    def by_expert(self, x: Tensor, ends: Tensor) -> Tensor:  # [R, in] -> [R, out of one]
        """Multiply each expert's rows with its part; ends [E]: see `ops.expert_linear`."""
        return by_expert(x, self.stored, ends)

    @property
    def stored(self) -> KernelWeight:
        """What the kernels read."""
        return KernelWeight(self.packed, None, self.outputs, self.inputs, BF16)


def by_expert(x: Tensor, weight: KernelWeight, ends: Tensor) -> Tensor:
    """Multiply each expert's rows with its matrix, which is whole tiles of a weight."""
    outputs = weight.outputs // len(ends)
    x = x.contiguous()
    y = x.new_empty(len(x), outputs)
    for expert, rows in rows_of(ends):
        part = weight.part(expert * outputs, outputs)
        _native(x[rows], part, None, 0.0, False, None, None, y[rows])
    return y


def _stored(weight: object) -> KernelWeight | None:
    """Return what stands for a matrix as `_native` takes it, with bf16 rows; None: it does not."""
    if isinstance(weight, NativeMatrix):
        return weight.stored
    if not isinstance(weight, QuantizedWeight) or weight.dtype != torch.bfloat16:
        return None
    product = weight.form.linear
    if not isinstance(product, FewBitsProduct) or weight.inputs % product.in_word:
        return None
    return KernelWeight(weight.values, weight.scales, weight.outputs, weight.inputs, product.form)


def _native(
    x: Tensor,
    weight: KernelWeight,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    pair: Pair | None,
    y: Tensor | None = None,
) -> Tensor:
    x = x.contiguous()
    y = x.new_empty(len(x), weight.outputs) if y is None else y
    a, b, ends = pair or (None, None, None)
    library().run(
        _Linear(
            x=x,
            weight=weight.packed,
            scales=weight.scales,
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
            form=weight.form,
            is_float=x.dtype == torch.float32,
        ),
    )
    return y


def _linear(
    x: Tensor,
    weight: object,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    pair: Pair | None,
) -> Tensor:
    if isinstance(weight, Tensor):  # not bf16: only the probe comes here
        return reference.fused_linear(x, weight, norm, eps, gated, residual, pair)
    stored = _stored(weight)
    assert stored is not None  # `takes` has said so
    return _native(x, stored, norm, eps, gated, residual, pair)


def _prepared(weight: Tensor) -> NativeMatrix | Tensor:
    library()
    return NativeMatrix(weight) if weight.dtype == torch.bfloat16 else weight


NATIVE_LINEAR = FusedLinear(
    _linear, takes=lambda rows, weight: _stored(weight) is not None, prepared=_prepared
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
