"""What the forward pass reads of a step: buffers that are made once for an engine.

`prepare` fills them on the host and queues one copy; the forward pass reads the device's side only,
at the same addresses in every step. There the tokens stay that the device has chosen: a step can
read them before its host knows them. Where the cache wants it, a step that only decodes has 1, 2,
4, 8 ... rows: filler writes to a block of its own. So a graph of such a step can be captured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.device.upload import UploadBuffer
from danlu.engine.sampling.prompt_lookup import MOST_TRIED
from danlu.engine.scheduler import SequenceT
from danlu.ops import Cache, CacheStep, Draw


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of N requests with T new tokens, all tensors on the device.

    tokens, positions: int32 [T]. sources: int32 [T] in a step that only decodes, see
    `StepInputs.tokens_of`; else None. rows: int32 [R], those that a token follows, or None where
    they are all. num_rows: how many of them belong to requests. num_filler: tokens behind the last
    request's. group_ends: int64, where each group of tokens ends, or None without groups. asked:
    fp32 [5, R], what `ops.draw` takes.
    """

    tokens: Tensor
    positions: Tensor
    sources: Tensor | None
    rows: Tensor | None
    num_rows: int
    num_filler: int
    group_ends: Tensor | None
    asked: Tensor
    cache: CacheStep

    @property
    def only_decodes(self) -> bool:
        """Whether each request has one token, and gets the next."""
        return self.sources is not None


@dataclass(kw_only=True)
class _StepColumns:
    """The numbers of a step on the host; see `Step` and `CacheStep`."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    tables: list[Sequence[int]] = field(default_factory=list)

    @property
    def only_decodes(self) -> bool:
        return len(self.ids) == len(self.rows)


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
        self._scratch = [scratch]
        most = _padded(max(max_requests, 1 + MOST_TRIED))
        # First what is of 64 bits, so that it begins at a multiple of them.
        by_request = [most, most, most, most + 1, len(Draw._fields) * most]
        sizes = [2 * max_groups, *[max(max_tokens, most)] * 3, *by_request, most * self._max_blocks]
        self._buffer = UploadBuffer(sum(sizes), device, kept=2 * most)
        self._host = torch.from_numpy(self._buffer.host).split([*sizes, 2 * most])
        self._there = self._buffer.there.split([*sizes, 2 * most])
        self._first_id, self._first_chosen = sizes[0], sum(sizes)
        # Which blocks stand in a row of the table already, and how many of them.
        self._filled: list[tuple[Sequence[int], int]] = [((), 0)] * most

    def prepare(
        self,
        batch: Mapping[SequenceT, int],
        groups: Sequence[int] | None = None,
        draws: Sequence[Draw] | None = None,
        after: Collection[SequenceT] = (),
    ) -> Step:
        """Fill the buffers with a step and queue their copy.

        batch: how many tokens to compute of each sequence. groups: how many tokens of the batch
        each group has. draws: what each row asks of `ops.draw`. after: the sequences of the step
        before, where the device has chosen their tokens and the host does not know them yet. What
        an earlier call returned is overwritten.
        """
        columns = self._following(batch, after) if after else self._known(batch)
        num_rows, filler = len(columns.rows), 0
        if columns.only_decodes:
            if not after:
                columns.sources = [self._first_id + row for row in range(num_rows)]
            if self._pads_rows:
                filler = _padded(num_rows) - num_rows
                self._fill_up(columns, filler)
        group_ends = list(accumulate(groups or ()))
        if group_ends:
            group_ends[-1] += filler  # nobody reads what they are added to
        self._fill(columns, group_ends, draws or ())
        return self._step(columns, len(group_ends), num_rows, filler)

    def tokens_of(self, step: Step) -> Tensor:
        """Read the tokens [T] of a step that only decodes: uploaded, or chosen by the last one."""
        assert step.sources is not None
        return self._buffer.there.index_select(0, step.sources)

    @property
    def chosen(self) -> Tensor:
        """Where the tokens that a step chooses belong: int32 [2, rows], as `ops.draw` has them."""
        chosen: Tensor = self._there[-1]
        return chosen.view(2, -1)

    def _known(self, batch: Mapping[SequenceT, int]) -> _StepColumns:
        """Describe a step whose tokens are known."""
        size, columns = self._block_tokens, _StepColumns()
        for sequence, start, count in _parts(batch):
            new = range(start, start + count)
            tokens = sequence.tokens
            if sequence.tried:
                tokens = [*tokens, *sequence.tried]
            columns.ids += tokens[new.start : new.stop]
            columns.positions += new
            columns.slots += [sequence.blocks[place // size] * size + place % size for place in new]
            if new.stop >= len(sequence.tokens):
                columns.rows.append(len(columns.ids) - 1)
            columns.ends.append(new.stop)
            columns.counts.append(count)
            columns.tables.append(sequence.blocks)
        return columns

    def _following(
        self, batch: Mapping[SequenceT, int], after: Collection[SequenceT]
    ) -> _StepColumns:
        """Describe a step that reads what the one before it chooses, a token each."""
        size, count = self._block_tokens, len(batch)
        row_of = {sequence: row for row, sequence in enumerate(after)}
        positions = [sequence.computed + 1 for sequence in batch]
        return _StepColumns(
            ids=[0] * count,
            positions=positions,
            slots=[
                sequence.blocks[place // size] * size + place % size
                for sequence, place in zip(batch, positions, strict=True)
            ],
            rows=list(range(count)),
            sources=[self._first_chosen + row_of[sequence] for sequence in batch],
            ends=[place + 1 for place in positions],
            counts=[1] * count,
            tables=[sequence.blocks for sequence in batch],
        )

    def _fill_up(self, columns: _StepColumns, filler: int) -> None:
        """Add requests of one token, which is written to a block that is nobody's."""
        first = len(columns.ids)
        columns.ids += [0] * filler
        columns.positions += [0] * filler
        columns.slots += [self._scratch[0] * self._block_tokens] * filler
        columns.rows += range(first, first + filler)
        columns.sources += range(self._first_id + first, self._first_id + first + filler)
        columns.ends += [1] * filler
        columns.counts += [1] * filler
        columns.tables += [self._scratch] * filler

    def _fill(
        self, columns: _StepColumns, group_ends: Sequence[int], draws: Sequence[Draw]
    ) -> None:
        groups, *parts, asked, table, _chosen = self._host
        self._buffer.begin()
        groups.view(torch.int64).numpy()[: len(group_ends)] = group_ends
        given = (
            columns.ids, columns.positions, columns.slots, columns.rows, columns.sources,
            columns.ends, [0, *accumulate(columns.counts)],
        )  # fmt: skip
        for part, numbers in zip(parts, given, strict=True):
            part.numpy()[: len(numbers)] = numbers
        if draws:
            fields = asked.view(torch.float32).view(len(Draw._fields), -1).numpy()
            fields[:, : len(draws)] = list(zip(*draws, strict=True))
            # What filler draws, nobody reads.
            fields[:, len(draws) : len(columns.rows)] = np.array(Draw(), dtype=np.float32)[:, None]
        if self._takes_tables:
            self._fill_table(table.view(-1, self._max_blocks).numpy(), columns.tables)
        self._buffer.upload()

    def _fill_table(self, table: NDArray[np.int32], blocks: Sequence[Sequence[int]]) -> None:
        """Write what does not stand there yet: a request's blocks only become more."""
        for row, its in enumerate(blocks):
            before, count = self._filled[row]
            start = count if its is before else 0
            if start < len(its):
                table[row, start : len(its)] = its[start:]
                self._filled[row] = its, len(its)

    def _step(self, columns: _StepColumns, num_groups: int, num_rows: int, filler: int) -> Step:
        groups, tokens, positions, slots, rows, sources, lengths, offsets, asked, table, _kept = (
            self._there
        )
        total, requests = len(columns.ids), len(columns.ends)
        asked = asked.view(torch.float32).view(len(Draw._fields), -1)
        return Step(
            tokens=tokens[:total],
            positions=positions[:total],
            sources=sources[:total] if columns.only_decodes else None,
            rows=None if columns.only_decodes else rows[: len(columns.rows)],
            num_rows=num_rows,
            num_filler=filler,
            group_ends=groups.view(torch.int64)[:num_groups] if num_groups else None,
            asked=asked[:, : len(columns.rows)],
            cache=CacheStep(
                counts=columns.counts,
                ends=columns.ends,
                tables=columns.tables,
                block_tokens=self._block_tokens,
                slots=slots[:total],
                block_table=table.view(-1, self._max_blocks)[:requests],
                lengths=lengths[:requests],
                offsets=offsets[: requests + 1],
            ),
        )


def _parts(batch: Mapping[SequenceT, int]) -> Iterator[tuple[SequenceT, int, int]]:
    """Yield what of each sequence is computed: from which token, and how many.

    Tokens that are tried are decoded side by side, like requests with the same blocks: all keys
    are written before any is read, and each attends as far as it stands.
    """
    for sequence, count in batch.items():
        if sequence.tried:
            yield from ((sequence, sequence.computed + number, 1) for number in range(count))
        else:
            yield sequence, sequence.computed, count


def _padded(count: int) -> int:
    """Return the next power of two."""
    return 1 << (count - 1).bit_length()
