"""An adapter added to its base's matrices in memory: answers then cost what the base's cost."""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.lora.adapter import Adapter
from danlu.model.layout import PROJECTIONS
from danlu.model.qwen3 import Qwen3

# Rows that are added at once, in fp32.
_ROWS = 2048


@torch.no_grad()
def add_to_base(model: Qwen3, adapter: Adapter) -> None:
    """Add an adapter in fp32 to the model's matrices; each number is rounded once.

    adapter: in fp32, on the model's device. The numbers are those that `danlu merge` writes.
    """
    for index, layer in enumerate(model.layers):
        for name in PROJECTIONS:
            addition = adapter.additions.get((index, name))
            weight: Tensor = getattr(layer, name)
            for _name, place, a, b in () if addition is None else addition.matrices():
                pieces = zip(weight[place].split(_ROWS), b.split(_ROWS), strict=True)
                for rows, of_rows in pieces:
                    sums = torch.addmm(rows.float(), of_rows, a, alpha=adapter.config.scaling)
                    rows.copy_(sums)
