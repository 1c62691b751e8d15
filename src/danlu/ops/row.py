"""A projection of a single row: what precedes it, the product and the residual stream as one.

Where one request decodes, a card waits for each weight's bytes, and beside that for every operation
that is started: so those around a product are computed by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.variants import REFERENCE
from danlu.ops import reference
from danlu.ops.choice import Operation, example
from danlu.ops.product import Stream

# The most outputs: of a larger matrix, such as the output matrix of a big vocabulary, a product
# alone takes so long that its own kernel, which reads it faster, is what counts.
_MOST_OUTPUTS = 1 << 16
# An adapter's matrices by place, a [P, in, R] and b [P, R, out], and where each place's rows end.
Pair = tuple[Tensor, Tensor, Tensor]
# x, weight, norm, eps, gated, residual, pair, as `row_linear` has them.
Variant = Callable[
    [Tensor, Tensor, "Tensor | None", float, bool, "Tensor | None", "Pair | None"], Tensor
]


def is_row(x: Tensor | Stream, weight: object) -> TypeGuard[Tensor]:
    """Whether `row_linear` suits: a single row, in inference mode, on a device that has it.

    weight: a matrix, or what stands in its place, which multiplies by itself.
    """
    return (
        isinstance(x, Tensor)
        and len(x) == 1
        and torch.is_inference_mode_enabled()
        and isinstance(weight, Tensor)
        and len(weight) <= _MOST_OUTPUTS
        and ROW_LINEAR.name_on(x.device) != REFERENCE
    )


def row_linear(
    x: Tensor,
    weight: Tensor,
    *,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    pair: Pair | None = None,
) -> Tensor:
    """Multiply a row with weight [out, in] -> [1, out].

    x: [1, in], with its RMS norm first where `norm` [in] is given; with `gated` [1, 2 in], whose
    swiglu is multiplied. residual: [1, out], added, as is what the pair of the row's place makes.
    """
    return ROW_LINEAR.on(x.device)(x, weight, norm, eps, gated, residual, pair)


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    def numbers(*size: int, seed: int) -> Tensor:
        return example(*size, device=device, dtype=dtype, seed=seed)

    x, weight = numbers(1, 2 * 96, seed=0), numbers(40, 96, seed=1)
    norm, residual = numbers(96, seed=2), numbers(1, 40, seed=3)
    a, b = numbers(3, 96, 12, seed=4), numbers(3, 12, 40, seed=5)
    pair = a, b, sent(torch.tensor([0, 0, 1]), device)
    with torch.no_grad():
        return [
            variant(x[:, :96], weight, norm, 1e-6, False, None, None),
            variant(x[:, :96], weight, None, 1e-6, False, residual, None),
            variant(x, weight, None, 1e-6, True, residual, None),
            variant(x, weight, None, 1e-6, True, residual, pair),
            variant(x[:, :96], weight, norm, 1e-6, False, None, pair),
        ]


ROW_LINEAR: Operation[Variant] = Operation("row_linear", {REFERENCE: reference.row_linear}, _trial)
