"""Products of groups of rows, each group with a matrix of its own: several adapters in one step.

Inference only: nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from danlu.device.variants import REFERENCE
from danlu.ops import reference
from danlu.ops.choice import Operation, example

# A group after the other.
_BY_GROUP = "by_group"
# As `grouped_linear`.
Variant = Callable[..., Tensor]


def grouped_linear(
    x: Tensor, matrices: Tensor, ends: Tensor, total: Tensor | None = None
) -> Tensor:
    """Multiply x [T, in] with matrices [G, in, out], each group of rows with its own: [T, out].

    ends: int64 [G], where each group's rows end; the last is T. A group may have none. total:
    [T, out], which the product is added to in place, and which is returned then.
    """
    return GROUPED_LINEAR.on(x.device)(x, matrices, ends, total)


def multiplies_groups(device: torch.device, *, many: bool = False) -> bool:
    """Whether a device multiplies all groups by one call, whose caller need not know `ends`.

    many: more groups than rows, which a device that is its own host would go through one by one.
    """
    name = GROUPED_LINEAR.name_on(device)
    return name != REFERENCE and not (many and name == _BY_GROUP)


def _by_group(x: Tensor, matrices: Tensor, ends: Tensor, total: Tensor | None = None) -> Tensor:
    """Group after group, for a device that is its own host."""
    y = x.new_zeros(len(x), matrices.shape[2]) if total is None else total
    for (start, end), matrix in zip(pairwise([0, *ends.tolist()]), matrices, strict=True):
        if start < end:
            y[start:end].addmm_(x[start:end], matrix)
    return y


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    ends = torch.tensor([0, 5, 5, 13], device=device)
    x = example(13, 64, device=device, dtype=dtype)
    narrow = example(4, 64, 24, device=device, dtype=dtype)
    wide = example(4, 24, 96, device=device, dtype=dtype)
    with torch.no_grad():
        between = variant(x, narrow, ends)
        total = example(13, 96, device=device, dtype=dtype, seed=1)
        return [between, variant(between, wide, ends, total), total]


GROUPED_LINEAR: Operation[Variant] = Operation(
    "grouped_linear", {REFERENCE: reference.grouped_linear, _BY_GROUP: _by_group}, _trial
)
