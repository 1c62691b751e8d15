"""The largest logits of each row, with their ids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from danlu.device.variants import REFERENCE
from danlu.ops.choice import Operation, example

Variant = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest numbers of rows [N, V], the largest first, and where they stand.

    Which of several alike are the last is not said. Where a row has a NaN, it is the first.
    """
    return LARGEST.on(rows.device)(rows, count)


def _by_topk(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    values, ids = rows.topk(count, dim=-1)
    return values, ids


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    rows = example(3, 5000, device=device, dtype=dtype)
    rows[1, 4321] = torch.nan
    values, ids = variant(rows, 64)
    # In bf16 several are alike: what stands at the places is what is compared.
    found = rows.gather(1, ids.long())
    first = values[1, :1]
    return [values[::2].to(dtype), found[::2], (first != first).to(dtype)]


LARGEST: Operation[Variant] = Operation("largest", {REFERENCE: _by_topk}, _trial)
