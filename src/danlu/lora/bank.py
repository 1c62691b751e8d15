"""`linear` with several adapters in one batch, for inference: each run of tokens has its own.

The base product is computed once for all tokens; every adapter adds its part to its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch.nn.functional as F
from torch import Tensor

from danlu.lora.adapter import Adapter
from danlu.lora.expert_adapter import add_to_experts
from danlu.model.experts import Groups
from danlu.model.qwen3 import (
    Head,
    Layer,
    Linear,
    begin_product,
    expert_product,
    plain_linear,
    projection_input,
)
from danlu.ops import Blocks, Stream, end_linear


class AdapterBank(Linear):
    """The `linear` of the engine where a device does not multiply groups by one call.

    segments: (adapter, number of tokens) in the order of the batch; None means the plain model.
    Neighbours with the same adapter are computed together.
    """

    def __init__(self, segments: Sequence[tuple[Adapter | None, int]]) -> None:
        self._runs: list[tuple[Adapter, slice]] = []
        start = 0
        for adapter, neighbours in groupby(segments, key=lambda segment: segment[0]):
            tokens = sum(number for _adapter, number in neighbours)
            if adapter is not None:
                self._runs.append((adapter, slice(start, start + tokens)))
            start += tokens

    @classmethod
    def of_one(cls, adapter: Adapter | None) -> AdapterBank:
        """Make the `linear` of batches whose tokens all belong to one adapter, however many."""
        bank = cls([])
        if adapter is not None:
            bank._runs.append((adapter, slice(None)))
        return bank

    def __call__(
        self, layer: Layer | Head, name: str, x: Tensor | Stream, residual: Tensor | None = None
    ) -> Tensor:  # [T, in] -> [T, out]
        if not self._runs or not isinstance(layer, Layer):
            return plain_linear(layer, name, x, residual)
        n = projection_input(layer, name, x)
        y, left = begin_product(layer, name, n, residual)
        for adapter, tokens in self._runs:
            addition = adapter.additions.get((layer.index, name))
            if addition is None:
                continue
            t = F.linear(n[tokens], addition.a.to(n.dtype))
            rows = y[tokens]
            for part in addition.parts:
                # In place: decoding waits for the number of operations, not for these products.
                rows[:, part.out_rows].addmm_(
                    t[:, part.rank_rows], part.b.to(n.dtype).t(), alpha=adapter.config.scaling
                )
        return end_linear(y, left)

    def by_experts(self, layer: Layer, name: str, x: Tensor, groups: Groups) -> Tensor:
        """Multiply rows with experts' matrices, and add what each row's adapter adds."""
        y = expert_product(layer, name, x, groups)
        for adapter, tokens in self._runs:
            addition = adapter.additions.get((layer.index, name))
            if addition is None:
                continue
            a = addition.a.to(x.dtype)
            blocks = Blocks(
                parts=tuple(part.b.to(x.dtype) for part in addition.parts),
                places=tuple((part.out_rows, part.rank_rows) for part in addition.parts),
            )
            scaling = adapter.config.scaling
            if tokens == slice(None):
                add_to_experts(y, x, a, blocks, scaling, groups.ends)
                continue
            rows, ends = groups.part(tokens)
            some = y.index_select(0, rows)
            add_to_experts(some, x.index_select(0, rows), a, blocks, scaling, ends)
            y.index_copy_(0, rows, some)
        return y
