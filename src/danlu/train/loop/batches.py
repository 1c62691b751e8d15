"""The packed batches of each step, made ready while the device still works on the step before.

No thread is needed: the host queues a step, packs the rows of the next one into memory that the
device reads, and only then waits. Must not know what the batches are computed for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.data.tokens.examples import Example
from danlu.data.tokens.pack import IDLE, Batch, bins, filled, pack, shares
from danlu.device.group import ALONE, Group
from danlu.device.memory import reachable
from danlu.ops import Segments
from danlu.train.recipe import rows_of_step


class Uploaded(NamedTuple):
    """A batch on the device; see `Batch`. indices: of the supervised places."""

    tokens: Tensor
    positions: Tensor
    indices: Tensor
    targets: Tensor
    segments: Segments


@dataclass(frozen=True, kw_only=True)
class StagedBatch:
    """A batch whose numbers are in memory that the device reads: int64, see `Batch`.

    is_idle: it stands for nothing, and is computed because others compute theirs.
    """

    batch: Batch
    numbers: Tensor
    is_idle: bool = False

    def upload(self, device: torch.device) -> Uploaded:
        """Queue one copy; return what is on the device."""
        there = self.numbers.to(device, non_blocking=True)
        tokens, positions, indices, targets, offsets = there.split(self.batch.sizes)
        segments = Segments(lengths=self.batch.segment_lengths, offsets=offsets.to(torch.int32))
        return Uploaded(tokens, positions, indices, targets, segments)


@dataclass(frozen=True, kw_only=True)
class StagedStep:
    """What this process computes of a step. num_targets, num_tokens: of all processes' together."""

    batches: Sequence[StagedBatch]
    num_targets: int
    num_tokens: int


def stage(batch: Batch, device: torch.device, *, multiple: int = 1) -> StagedBatch:
    """Put a batch into memory that the device reads; its tokens are filled up to a `multiple`."""
    whole = filled(batch, multiple)
    numbers = reachable(whole.numbers, device)
    return StagedBatch(batch=whole, numbers=numbers, is_idle=batch is IDLE)


class StepBatches:
    """The batches of any step; those of one step can be packed ahead.

    group: each of its processes knows all of a step's rows and takes its share of them. in_step:
    each computes as many batches as the others.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Example]],
        *,
        rows_per_step: int,
        seed: int,
        device: torch.device,
        multiple: int = 1,
        group: Group = ALONE,
        in_step: bool = False,
    ) -> None:
        self._rows = rows
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._device = device
        self._multiple = multiple
        self._group = group
        self._in_step = in_step
        self._prepared: tuple[tuple[int, int], StagedStep] | None = None

    def rows_of(self, step: int) -> list[int]:
        """Return the indices of the rows that an optimizer step takes."""
        return rows_of_step(
            step, len(self._rows), rows_per_step=self._rows_per_step, seed=self._seed
        )

    def examples_of(self, step: int) -> list[Example]:
        """List the examples of an optimizer step that this process computes."""
        return share_of(self._all(step), self._group)

    def prepare(self, step: int, micro_batch_tokens: int) -> None:
        """Pack a step's rows; what was prepared for another step or size is thrown away."""
        key = step, micro_batch_tokens
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = key, self._packed(step, micro_batch_tokens)

    def take(self, step: int, micro_batch_tokens: int) -> StagedStep:
        """Return a step's batches, prepared or packed now, and keep no reference to them."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] == (step, micro_batch_tokens):
            return prepared[1]
        return self._packed(step, micro_batch_tokens)

    def _packed(self, step: int, micro_batch_tokens: int) -> StagedStep:
        everything = self._all(step)
        packed = share_packed(everything, micro_batch_tokens, self._group, in_step=self._in_step)
        return StagedStep(
            batches=[stage(batch, self._device, multiple=self._multiple) for batch in packed],
            num_targets=sum(example.num_targets for example in everything),
            num_tokens=sum(len(example.tokens) for example in everything),
        )

    def _all(self, step: int) -> list[Example]:
        return [example for row in self.rows_of(step) for example in self._rows[row]]


def share_packed(
    examples: Sequence[Example], micro_batch_tokens: int, group: Group, *, in_step: bool
) -> list[Batch]:
    """Pack what this process of a group computes of examples.

    in_step: with idle batches behind, where another process has more.
    """
    packed = pack(share_of(examples, group), micro_batch_tokens)
    if not in_step:
        return packed
    lengths = [len(example.tokens) for example in examples]
    most = max(
        len(bins([lengths[index] for index in share], micro_batch_tokens))
        for share in shares(lengths, group.size)
    )
    return packed + [IDLE] * (most - len(packed))


def share_of(examples: Sequence[Example], group: Group) -> list[Example]:
    """Return the examples, in order, that this process of a group computes."""
    mine = shares([len(example.tokens) for example in examples], group.size)[group.rank]
    return [examples[index] for index in mine]
