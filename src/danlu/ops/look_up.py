"""Rows of a table by their numbers: embeddings of tokens, angles of positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.variants import REFERENCE
from danlu.ops.choice import Operation, example

# A table [N, size], or what stands in its place; numbers [T] -> [T, size].
Variant = Callable[[Any, Tensor], Tensor]


def look_up(table: Any, numbers: Tensor) -> Tensor:
    """Return the rows of a table [N, size] with these numbers [T] -> [T, size].

    What stands in a matrix's place will do, if `packing_for` says that it can be looked up; it has
    no gradient.
    """
    if torch.is_inference_mode_enabled() or not isinstance(table, Tensor):
        return LOOK_UP.on(numbers.device)(table, numbers)
    return F.embedding(numbers, table)


def _looked_up(table: Tensor, numbers: Tensor) -> Tensor:
    return F.embedding(numbers, table)


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    table = example(40, 24, device=device, dtype=dtype)
    numbers = sent(torch.tensor([39, 0, 7, 7], dtype=torch.int32), device)
    with torch.no_grad():
        return [variant(table, numbers)]


LOOK_UP: Operation[Variant] = Operation("look_up", {REFERENCE: _looked_up}, _trial)
