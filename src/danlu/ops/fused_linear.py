"""A projection without gradients: what precedes it, the product and what is added to it as one.

Where few rows are multiplied, a device waits for the weights' bytes, and beside that for every
operation that is started: so those around a product are computed by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.variants import REFERENCE
from danlu.ops import reference
from danlu.ops.choice import Operation, example
from danlu.ops.product import Stream

# An adapter's matrices by place, a [P, in, R] and b [P, R, out], and where each place's rows end.
Pair = tuple[Tensor, Tensor, Tensor]


class FusedLinear(NamedTuple):
    """A variant.

    linear(x, weight, norm, eps, gated, residual, pair): as `fused_linear` has them. takes(rows,
    weight): whether it suits so many rows and what stands for a matrix. prepared(weight): a matrix
    as it takes it.
    """

    linear: Callable[[Tensor, Any, Tensor | None, float, bool, Tensor | None, Pair | None], Tensor]
    takes: Callable[[int, object], bool]
    prepared: Callable[[Tensor], object] = lambda weight: weight


def is_fused(x: Tensor | Stream, weight: object) -> TypeGuard[Tensor]:
    """Whether `fused_linear` suits: in inference mode, on a device that has it.

    weight: a matrix, or what stands in its place, which multiplies by itself.
    """
    return (
        isinstance(x, Tensor)
        and torch.is_inference_mode_enabled()
        and FUSED_LINEAR.on(x.device).takes(len(x), weight)
    )


def fused_linear(
    x: Tensor,
    weight: object,
    *,
    norm: Tensor | None,
    eps: float,
    gated: bool,
    residual: Tensor | None,
    pair: Pair | None = None,
) -> Tensor:
    """Multiply rows with weight [out, in] -> [T, out].

    x: [T, in], with its RMS norm first where `norm` [in] is given; with `gated` [T, 2 in], whose
    swiglu is multiplied. residual: [T, out], added, as is what the pair of each row's place makes.
    """
    return FUSED_LINEAR.on(x.device).linear(x, weight, norm, eps, gated, residual, pair)


def _trial(variant: FusedLinear, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    def numbers(*size: int, seed: int) -> Tensor:
        return example(*size, device=device, dtype=dtype, seed=seed)

    x, weight = numbers(1, 2 * 96, seed=0), variant.prepared(numbers(40, 96, seed=1))
    norm, residual = numbers(96, seed=2), numbers(1, 40, seed=3)
    a, b = numbers(3, 96, 12, seed=4), numbers(3, 12, 40, seed=5)
    pair = a, b, sent(torch.tensor([0, 0, 1]), device)
    linear = variant.linear
    with torch.no_grad():
        return [
            linear(x[:, :96], weight, norm, 1e-6, False, None, None),
            linear(x[:, :96], weight, None, 1e-6, False, residual, None),
            linear(x, weight, None, 1e-6, True, residual, None),
            linear(x, weight, None, 1e-6, True, residual, pair),
            linear(x[:, :96], weight, norm, 1e-6, False, None, pair),
        ]


FUSED_LINEAR: Operation[FusedLinear] = Operation(
    "fused_linear",
    {REFERENCE: FusedLinear(reference.fused_linear, takes=lambda rows, weight: False)},
    _trial,
)
