"""Products with matrices that lie in memory as the CPU's library reads them.

Before each 16-bit product oneDNN reorders the matrix. For one new token that takes longer than the
product, and a tenth of a training's step (docs/performance.md). A packed matrix has been reordered
once (by aten's `mkldnn` operations, as its compiler uses them).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops.choice import NotHere, Operation, example
from danlu.ops.frozen.frozen_product import frozen_product

# What stands in a matrix's place: x [rows, in] -> [rows, out].
Product = Callable[[Tensor], Tensor]


class Packing(NamedTuple):
    """A variant. pack(weight [out, in]): the product with it. looks_up: `look_up` takes that.

    expert_multiple: of what the outputs of each expert have to be a multiple, so that the matrices
    of many are packed as one and `by_expert` multiplies with them; 0: they are not packed.
    """

    pack: Callable[[Tensor], Product]
    looks_up: bool
    expert_multiple: int = 0


def packing_for(dtype: torch.dtype, device: torch.device) -> Packing | None:
    """Return how to pack matrices of this dtype on a device; None where it is not done."""
    return PACKED_LINEAR.on(device) if dtype == torch.bfloat16 else None


class PackedBase:
    """A frozen matrix [out, in] below an adapter, packed for the product and for its gradient.

    It takes the memory of two. keeps_plain: the matrix is there in any case, and is what x is
    multiplied with.
    """

    def __init__(self, weight: Tensor, *, keeps_plain: bool = False) -> None:
        plain = weight.detach()
        self._product = partial(F.linear, weight=plain) if keeps_plain else _pack(plain)
        self._gradient = _pack(plain.t())

    def __call__(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return frozen_product(x, self.product, self.gradient)

    def product(self, x: Tensor) -> Tensor:
        """Multiply, without a graph."""
        return self._product(x)

    def gradient(self, dy: Tensor) -> Tensor:  # [T, out] -> [T, in]
        """Return the gradient of x."""
        return self._gradient(dy)


class BasePacking(Protocol):
    """A variant: makes a `PackedBase`."""

    def __call__(self, weight: Tensor, *, keeps_plain: bool = False) -> PackedBase:
        """Pack a matrix [out, in]."""


def base_packing_for(dtype: torch.dtype, device: torch.device) -> BasePacking | None:
    """Return how to pack matrices below an adapter; None where it is not done."""
    return PACKED_BASE.on(device) if dtype == torch.bfloat16 else None


def _is_here() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _pack(weight: Tensor) -> Product:
    if not _is_here():
        raise NotHere("oneDNN multiplies no bf16 on this processor")
    return partial(_linear, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None))


def _linear(packed: Tensor, x: Tensor) -> Tensor:
    if not len(x):
        return x.new_empty(0, packed.shape[0])
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")  # type: ignore[no-any-return]


def _trial(packing: Packing | None, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    x, weight = (example(rows, 64, device=device, dtype=dtype) for rows in (5, 48))
    if packing is None or dtype != torch.bfloat16:
        return [F.linear(x, weight)]
    with torch.no_grad():
        return [packing.pack(weight)(x)]


PACKED_LINEAR: Operation[Packing | None] = Operation(
    "packed_linear", {"onednn": Packing(_pack, looks_up=False), "reference": None}, _trial
)


def _base_trial(
    packing: BasePacking | None, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    x, weight, dy = (
        example(*shape, device=device, dtype=dtype) for shape in ((5, 64), (48, 64), (5, 48))
    )
    if packing is None or dtype != torch.bfloat16:
        return [F.linear(x, weight), dy @ weight]
    packed = packing(weight)
    return [packed.product(x), packed.gradient(dy)]


PACKED_BASE: Operation[BasePacking | None] = Operation(
    "packed_base", {"onednn": PackedBase, "reference": None}, _base_trial
)
