"""What the forward pass reads of a step: buffers that are made once for an engine.

`prepare` fills them on the host and queues one copy; the forward pass reads the device's side only,
at the same addresses in every step. Where the cache wants it, a step that only decodes has 1, 2, 4,
8 ... rows: filler writes to a block of its own. So a graph of such a step can be captured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from danlu.device.upload import UploadBuffer
from danlu.engine.scheduler import SequenceT
from danlu.ops import Cache, CacheStep


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of N requests with T new tokens, all tensors on the device.

    tokens, positions: int32 [T]. rows: int32 [R], those that a token follows, or None where they
    are all. num_rows: how many of them belong to requests. num_filler: tokens behind the last
    request's. group_ends: int64, where each group of tokens ends, or None without groups.
    """

    tokens: Tensor
    positions: Tensor
    rows: Tensor | None
    num_rows: int
    num_filler: int
    group_ends: Tensor | None
    cache: CacheStep

    @property
    def only_decodes(self) -> bool:
        """Whether each request has one token, and gets the next."""
        return self.rows is None and self.cache.is_decoding


class StepInputs:
    """The buffers.

    max_tokens: of all steps. max_requests: that run at once. max_blocks: that a request may have.
    max_groups: of tokens. scratch: the block that filler writes to.
    """

    def __init__(
        self,
        cache: type[Cache],
        *,
        max_tokens: int,
        max_requests: int,
        max_blocks: int,
        max_groups: int,
        scratch: int,
        device: torch.device,
    ) -> None:
        self._block_tokens, self._pads_rows = cache.block_tokens, cache.pads_rows
        self._takes_tables = cache.takes_tables
        self._max_blocks = max_blocks if cache.takes_tables else 1
        self._scratch = scratch
        most = _padded(max_requests)
        # First what is of 64 bits, so that it begins at a multiple of them.
        by_request = [most, most, most + 1, most * self._max_blocks]
        sizes = [2 * max_groups, *[max(max_tokens, most)] * 3, *by_request]
        self._buffer = UploadBuffer(sum(sizes), device)
        self._host = torch.from_numpy(self._buffer.host).split(sizes)
        self._there = self._buffer.there.split(sizes)

    def prepare(self, batch: Mapping[SequenceT, int], groups: Sequence[int] | None = None) -> Step:
        """Fill the buffers with a step and queue their copy.

        batch: how many tokens to compute of each sequence. groups: how many tokens of the batch
        each group has. What an earlier call returned is overwritten.
        """
        size = self._block_tokens
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        for sequence, count in batch.items():
            new = range(sequence.computed, sequence.computed + count)
            ids += sequence.tokens[new.start : new.stop]
            positions += new
            slots += [sequence.blocks[place // size] * size + place % size for place in new]
            if count == sequence.pending:
                rows.append(len(ids) - 1)
        ends = [sequence.computed + count for sequence, count in batch.items()]
        tables: list[Sequence[int]] = [sequence.blocks for sequence in batch]
        counts = list(batch.values())
        num_rows, filler = len(rows), 0
        if self._pads_rows and len(ids) == len(rows):  # it only decodes
            filler = _padded(len(ids)) - len(ids)
            ids += [0] * filler
            positions += [0] * filler
            slots += [self._scratch * size] * filler
            ends += [1] * filler
            counts += [1] * filler
            tables += [[self._scratch]] * filler
            rows = list(range(len(ids)))
        group_ends = list(accumulate(groups or ()))
        if group_ends:
            group_ends[-1] += filler  # nobody reads what they are added to
        offsets = [0, *accumulate(counts)]
        self._fill(group_ends, ids, positions, slots, rows, ends, offsets, tables)
        return self._step(group_ends, counts, ends, tables, rows, num_rows, filler)

    def _fill(
        self,
        group_ends: Sequence[int],
        ids: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        rows: Sequence[int],
        ends: Sequence[int],
        offsets: Sequence[int],
        tables: Sequence[Sequence[int]],
    ) -> None:
        groups, *columns, table = self._host
        self._buffer.begin()
        groups.view(torch.int64).numpy()[: len(group_ends)] = group_ends
        given = (ids, positions, slots, rows, ends, offsets)
        for column, numbers in zip(columns, given, strict=True):
            column.numpy()[: len(numbers)] = numbers
        by_request = table.view(-1, self._max_blocks).numpy()
        if self._takes_tables:
            for place, blocks in enumerate(tables):
                by_request[place, : len(blocks)] = blocks
        self._buffer.upload()

    def _step(
        self,
        group_ends: Sequence[int],
        counts: Sequence[int],
        ends: Sequence[int],
        tables: Sequence[Sequence[int]],
        rows: Sequence[int],
        num_rows: int,
        filler: int,
    ) -> Step:
        groups, tokens, positions, slots, of_rows, lengths, offsets, table = self._there
        total = sum(counts)
        return Step(
            tokens=tokens[:total],
            positions=positions[:total],
            rows=None if len(rows) == total else of_rows[: len(rows)],
            num_rows=num_rows,
            num_filler=filler,
            group_ends=groups.view(torch.int64)[: len(group_ends)] if group_ends else None,
            cache=CacheStep(
                counts=counts,
                ends=ends,
                tables=tables,
                block_tokens=self._block_tokens,
                slots=slots[:total],
                block_table=table.view(-1, self._max_blocks)[: len(ends)],
                lengths=lengths[: len(ends)],
                offsets=offsets[: len(ends) + 1],
            ),
        )


def _padded(count: int) -> int:
    """Return the next power of two."""
    return 1 << (count - 1).bit_length()
