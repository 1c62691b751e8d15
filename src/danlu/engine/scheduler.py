"""Decides what each step computes, and keeps the block tables. Plain Python, no tensors.

Every request that is writing gets its next token first, so no long prompt delays it. Prompts are
read in chunks that share a budget, first come first served. Where blocks run out, the youngest
running request is preempted: it releases its blocks and is computed again later, so the oldest
always makes progress. A prefix that is in the cache is not computed again, and one that an older
request is computing right now is waited for.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from danlu.engine.blocks import Block, BlockPool, Contents
from danlu.engine.request import RequestId


@dataclass(kw_only=True, eq=False)
class TokenSequence:
    """The tokens of one request, and the blocks that hold the computed ones.

    tokens: prompt and answer so far. computed: how many of them are in the cache; contents: the
    names of its full blocks. num_found: prompt tokens that were found computed, at the last start.
    tried: tokens that may follow, computed on trial with the next step.
    """

    id: RequestId
    tokens: list[int]
    root: Contents
    computed: int = 0
    blocks: list[Block] = field(default_factory=list)
    contents: list[Contents] = field(default_factory=list)
    num_found: int = 0
    tried: Sequence[int] = ()

    @property
    def pending(self) -> int:
        """Tokens that are not computed yet; a single one is the next of an answer."""
        return len(self.tokens) - self.computed

    @property
    def is_read_whole(self) -> bool:
        """Whether the prompt is computed even where the cache holds it."""
        return False

    @property
    def end(self) -> Contents:
        """The name of the last full block's contents, the root where there is none."""
        return self.contents[-1] if self.contents else self.root


SequenceT = TypeVar("SequenceT", bound=TokenSequence)


class Scheduler(Generic[SequenceT]):
    """Queues sequences and decides what each step computes.

    prompt_tokens: the budget of prompt chunks in a step, at least 1. num_requests: how many run at
    once; the others wait.
    """

    def __init__(self, pool: BlockPool, *, prompt_tokens: int, num_requests: int) -> None:
        self._pool = pool
        self._prompt_tokens = prompt_tokens
        self._num_requests = num_requests
        # Both in order of arrival, so of their ids. Those that wait, preempted ones excepted, are
        # younger than all that run.
        self._running: list[SequenceT] = []
        self._waiting: list[SequenceT] = []
        self.num_preemptions = 0

    @property
    def num_running(self) -> int:
        """Count the requests that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Count the requests that hold none."""
        return len(self._waiting)

    def add(self, sequence: SequenceT) -> None:
        """Queue a request. Prompt and answer must fit into the whole pool."""
        _insert(self._waiting, sequence)

    def remove(self, sequence: SequenceT, *, trusted: bool = True) -> None:
        """End a request and give its blocks back; see `BlockPool.release`."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._stop(sequence, trusted=trusted)
        else:
            self._waiting.remove(sequence)

    def plan(self) -> dict[SequenceT, int]:
        """Return how many tokens of which sequences the next step computes; take their blocks."""
        scheduled: dict[SequenceT, int] = {}
        for sequence in list(self._running):
            is_writing = sequence in self._running and sequence.pending == 1
            if is_writing and self._provide(sequence, 1, scheduled):
                scheduled[sequence] = 1
        left = self._prompt_tokens
        for sequence in list(self._running):
            if left and sequence in self._running and sequence.pending > 1:
                left -= self._read(sequence, left, scheduled)
        self._admit(left, scheduled)
        return scheduled

    def plan_ahead(
        self, under_way: Collection[SequenceT], going_on: Sequence[SequenceT]
    ) -> dict[SequenceT, int] | None:
        """Plan the step behind one whose tokens are not known yet; take its blocks.

        under_way: the sequences of that step, each with one token; going_on: those of them that get
        another. None where the next step may be another one once the tokens are known, and where
        blocks are lacking.
        """
        if self._may_admit() or not set(self._running) <= set(under_way):
            return None
        # The token that is being chosen is not counted as pending.
        growing = [s for s in going_on if len(s.blocks) < self._blocks_for(s.computed + 2)]
        if len(growing) > self._pool.num_available:
            return None
        for sequence in growing:
            self._provide(sequence, 2, {})  # one block each: nobody has to give any back
        return dict.fromkeys(going_on, 1)

    def make_room(self, sequence: SequenceT, tokens: int) -> bool:
        """Take the blocks for a sequence's next tokens, if nobody has to give any back."""
        lacking = self._blocks_for(sequence.computed + tokens) - len(sequence.blocks)
        return lacking <= self._pool.num_available and self._provide(sequence, tokens, {})

    def commit(self, scheduled: Mapping[SequenceT, int]) -> None:
        """Count the tokens of a step as computed."""
        size = self._pool.block_tokens
        for sequence, num_tokens in scheduled.items():
            sequence.computed += num_tokens
            for index in range(len(sequence.contents), sequence.computed // size):
                tokens = sequence.tokens[index * size : (index + 1) * size]
                block = sequence.blocks[index]
                sequence.contents.append(self._pool.learn(block, sequence.end, tokens))

    def _read(self, sequence: SequenceT, budget: int, scheduled: dict[SequenceT, int]) -> int:
        """Give a prompt its chunk, as far as the blocks suffice; return its tokens."""
        wanted = min(sequence.pending, budget)
        if not self._provide(sequence, wanted, scheduled):
            wanted = len(sequence.blocks) * self._pool.block_tokens - sequence.computed
        if wanted > 0:
            scheduled[sequence] = wanted
        return wanted

    def _admit(self, budget: int, scheduled: dict[SequenceT, int]) -> None:
        """Start waiting requests while budget, places and blocks last, in order of arrival."""
        under_way = {self._next_block(sequence) for sequence in self._running}
        for sequence in list(self._waiting):
            if budget == 0 or len(self._running) >= self._num_requests:
                break
            blocks, contents = self._known_beginning(sequence)
            start = len(blocks) * self._pool.block_tokens
            key = self._key(sequence, start, contents[-1] if contents else sequence.root)
            if key is not None and key in under_way and not sequence.is_read_whole:
                continue
            if not self._has_room(sequence, blocks):
                break
            self._pool.share(blocks)
            sequence.blocks, sequence.contents = blocks, contents
            sequence.computed = sequence.num_found = start
            self._waiting.remove(sequence)
            _insert(self._running, sequence)
            budget -= self._read(sequence, budget, scheduled)
            under_way.add(self._next_block(sequence))

    def _may_admit(self) -> bool:
        """Whether a request that waits may be started now, while all that run are writing."""
        if not self._waiting or len(self._running) >= self._num_requests:
            return False
        first = self._waiting[0]
        return self._has_room(first, self._known_beginning(first)[0])

    def _known_beginning(self, sequence: SequenceT) -> tuple[list[Block], list[Contents]]:
        """Return what the cache holds of a request that waits, as far as it need not be read."""
        if sequence.is_read_whole:
            return [], []
        found = self._pool.find(sequence.root, sequence.tokens[:-1])
        return [block for block, _contents in found], [contents for _block, contents in found]

    def _has_room(self, sequence: SequenceT, known: Sequence[Block]) -> bool:
        """Whether there are blocks for all that a request needs behind its known beginning."""
        missing = self._blocks_for(len(sequence.tokens)) - len(known)
        return missing <= self._pool.num_available_beside(known)

    def _provide(self, sequence: SequenceT, tokens: int, scheduled: dict[SequenceT, int]) -> bool:
        """Get the blocks for a request's next tokens, from younger ones if need be."""
        while len(sequence.blocks) < self._blocks_for(sequence.computed + tokens):
            block = self._pool.take(sequence.blocks[-1] if sequence.blocks else None)
            if block is not None:
                sequence.blocks.append(block)
            elif self._running[-1] is sequence:
                return False
            else:
                self._preempt(self._running[-1], scheduled)
        return True

    def _preempt(self, sequence: SequenceT, scheduled: dict[SequenceT, int]) -> None:
        self.num_preemptions += 1
        scheduled.pop(sequence, None)
        self._running.remove(sequence)
        self._stop(sequence)
        _insert(self._waiting, sequence)

    def _stop(self, sequence: SequenceT, *, trusted: bool = True) -> None:
        self._pool.release(sequence.blocks, trusted=trusted)
        sequence.blocks, sequence.contents, sequence.computed = [], [], 0

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._pool.block_tokens)

    def _next_block(self, sequence: SequenceT) -> tuple[Contents, tuple[int, ...]] | None:
        """Name the block that a request is filling while it reads its prompt."""
        if sequence.pending <= 1:
            return None
        return self._key(sequence, len(sequence.contents) * self._pool.block_tokens, sequence.end)

    def _key(
        self, sequence: SequenceT, start: int, contents: Contents
    ) -> tuple[Contents, tuple[int, ...]] | None:
        """Name a block by what stands before it and its tokens; None where it cannot be full."""
        end = start + self._pool.block_tokens
        if end >= len(sequence.tokens):
            return None
        return contents, tuple(sequence.tokens[start:end])


def _insert(sequences: list[SequenceT], sequence: SequenceT) -> None:
    """Insert a sequence where its arrival places it."""
    bisect.insort(sequences, sequence, key=lambda other: other.id)
