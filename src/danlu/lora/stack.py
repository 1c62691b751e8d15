"""Several adapters side by side, for devices that multiply all of them by one call.

A projection's matrices of all adapters stand in one tensor, at fixed places; place 0 holds zeros,
for the plain model. So a step starts the same operations whichever adapters its requests have, and
a recorded step stays right while adapters come and go. For inference only.

Where a layer has experts each of them has its matrices at every place, one place after the other: a
group of rows is an expert's rows of one adapter. Rows of an expert stand in the order of their
tokens, and these in the order of their adapters' places, so the groups are in order, too.

Shapes: P places, R the most rows that an adapter's merged A has, E experts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from danlu.lora.adapter import Adapter
from danlu.model.config import ModelConfig
from danlu.model.experts import Groups
from danlu.model.layout import merged_shape, num_experts
from danlu.model.qwen3 import (
    Head,
    Layer,
    Linear,
    begin_product,
    expert_product,
    fused_product,
    plain_linear,
    projection_input,
)
from danlu.ops import Stream, end_linear, grouped_linear, is_fused

# As many adapters as a step can have; each takes memory, and place 0 as much as one of them.
MOST_STACKED = 8
# The most groups of one call: of npu_grouped_matmul (op-plugin's page, August 2026).
_MOST_GROUPS = 1024


@dataclass(frozen=True)
class PlacedPair:
    """A projection's matrices: a [P, in, R] and b [P, R, out], scaling included.

    In b each target has its own rows, and zeros in the columns of the others. Of experts both have
    E P matrices, an expert's side by side.
    """

    a: Tensor
    b: Tensor


@dataclass(frozen=True, eq=False)
class Matrices:
    """The pairs by (layer index, merged projection); only where one of the adapters adds."""

    num_places: int
    ranks: Mapping[str, int]
    pairs: Mapping[tuple[int, str], PlacedPair]


class AdapterStack:
    """The adapters that steps have used last, at most `MOST_STACKED`; with many experts fewer.

    matrices: another object whenever what was recorded with the old one is not right any more.
    """

    def __init__(self, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        self._config, self._device, self._dtype = config, device, dtype
        experts = 1 if config.experts is None else config.experts.num_experts
        self._most = min(MOST_STACKED, _MOST_GROUPS // experts - 1)
        self._places: WeakKeyDictionary[Adapter, int] = WeakKeyDictionary()
        self._used: WeakKeyDictionary[Adapter, int] = WeakKeyDictionary()  # when, in calls
        self._calls = 0
        self.matrices = Matrices(0, {}, {})

    def hold(self, adapters: Collection[Adapter]) -> bool:
        """Bring adapters in, in place of others if need be; False where they are too many.

        Raises what torch raises where memory does not suffice: then it holds none.
        """
        if len(adapters) > self._most:
            return False
        self._calls += 1
        self._used.update(dict.fromkeys(adapters, self._calls))
        if not all(adapter in self._places for adapter in adapters):
            latest = sorted(self._used, key=lambda one: -self._used[one])[: self._most]
            try:
                self._bring_in(latest)
            except BaseException:
                self._drop()
                for adapter in adapters:  # the next ones are not to fail by them
                    del self._used[adapter]
                raise
        return True

    def places(self, adapters: Iterable[Adapter | None]) -> list[int]:
        """Return where adapters stand that are held; None is the plain model."""
        return [0 if adapter is None else self._places[adapter] for adapter in adapters]

    def forget(self, adapter: Adapter) -> None:
        """Give up an adapter's place."""
        self._used.pop(adapter, None)
        self._places.pop(adapter, None)
        if not self._places:
            self._drop()

    def _drop(self) -> None:
        self._places.clear()
        self.matrices = Matrices(0, {}, {})

    def _bring_in(self, adapters: Collection[Adapter]) -> None:
        ranks = _ranks(adapters)
        here = self.matrices
        has_room = len(adapters) < here.num_places and all(
            rank <= here.ranks.get(name, 0) for name, rank in ranks.items()
        )
        if not has_room:
            self._drop()  # before the new ones take memory
            self.matrices = self._empty(1 + len(adapters), ranks)
        for adapter in [one for one in self._places if one not in adapters]:
            del self._places[adapter]
        free = set(range(1, self.matrices.num_places)) - set(self._places.values())
        for adapter in adapters:
            if adapter not in self._places:
                place = free.pop()
                self._put(place, adapter)
                self._places[adapter] = place

    def _empty(self, num_places: int, ranks: Mapping[str, int]) -> Matrices:
        pairs = {}
        for name, rank in ranks.items():
            for layer in range(self._config.num_hidden_layers):
                out, in_features = merged_shape(self._config, name, layer)
                count = num_places * (num_experts(self._config, name, layer) or 1)
                pairs[layer, name] = PlacedPair(
                    *(
                        torch.zeros(count, *shape, device=self._device, dtype=self._dtype)
                        for shape in ((in_features, rank), (rank, out))
                    )
                )
        return Matrices(num_places, ranks, pairs)

    @torch.no_grad()
    def _put(self, place: int, adapter: Adapter) -> None:
        for key, pair in self.matrices.pairs.items():
            every = slice(place, None, self.matrices.num_places)  # one, or one of each expert
            a, b = pair.a[every].zero_(), pair.b[every].zero_()
            addition = adapter.additions.get(key)
            if addition is None:
                continue
            own = addition.a.view(len(a), -1, addition.a.shape[1])
            a[:, :, : own.shape[1]] = own.transpose(1, 2)
            for part in addition.parts:
                wide = part.b.view(len(b), -1, part.b.shape[1]).transpose(1, 2)
                b[:, part.rank_rows, part.out_rows] = adapter.config.scaling * wide


class StackedLinear(Linear):
    """The `linear` of a step whose tokens stand in the order of their adapters' places.

    ends: int64 [P] on the device, where each place's tokens end.
    """

    def __init__(self, matrices: Matrices, ends: Tensor) -> None:
        self._pairs, self._ends = matrices.pairs, ends
        self._of_rows: tuple[Groups, Tensor] | None = None

    def __call__(
        self, layer: Layer | Head, name: str, x: Tensor | Stream, residual: Tensor | None = None
    ) -> Tensor:  # [T, in] -> [T, out]
        pair = self._pairs.get((layer.index, name)) if isinstance(layer, Layer) else None
        if pair is None:
            return plain_linear(layer, name, x, residual)
        if is_fused(x, getattr(layer, name)):
            return fused_product(layer, name, x, residual, (pair.a, pair.b, self._ends))
        n = projection_input(layer, name, x)
        y, left = begin_product(layer, name, n, residual)
        t = grouped_linear(n, pair.a, self._ends)
        return end_linear(grouped_linear(t, pair.b, self._ends, y), left)

    def by_experts(self, layer: Layer, name: str, x: Tensor, groups: Groups) -> Tensor:
        """Multiply rows with experts' matrices, and add what each row's adapter adds."""
        y = expert_product(layer, name, x, groups)
        pair = self._pairs.get((layer.index, name))
        if pair is None:
            return y
        ends = self._row_ends(groups)
        return grouped_linear(grouped_linear(x, pair.a, ends), pair.b, ends, y)

    def _row_ends(self, groups: Groups) -> Tensor:
        """Return where the rows of each expert and place end, int64 [E P]; both products ask."""
        if self._of_rows is None or self._of_rows[0] is not groups:
            places, experts = len(self._ends), len(groups.ends)
            count = torch.arange(
                max(len(groups.chosen), places * experts), device=self._ends.device
            )
            place = torch.searchsorted(self._ends, count[: len(groups.chosen)], right=True)
            expert = groups.by_row(groups.chosen)
            number = expert * places + place.index_select(0, groups.tokens)
            ends = torch.searchsorted(number, count[: places * experts], right=True)
            self._of_rows = groups, ends
        return self._of_rows[1]


def _ranks(adapters: Iterable[Adapter]) -> dict[str, int]:
    """Return, for every projection that is added to, the most rows of a merged A."""
    ranks: dict[str, int] = {}
    for adapter in adapters:
        for (_layer, name), addition in adapter.additions.items():
            rank = len(addition.a) // (addition.num_experts or 1)
            ranks[name] = max(ranks.get(name, 0), rank)
    return ranks
