"""Decides what each step computes, and keeps the block tables. Plain Python, no tensors.

Every request that is writing gets its next token first, so a long prompt delays nobody; what is
left to read of the prompts is cut into chunks that share a budget, first come first served. Where
blocks run out, the youngest running request gives its own back and is computed again later; so the
oldest always gets on. A prompt's beginning that is known is not computed again, and one that an
older request is computing right now is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from danlu.engine.blocks import Block, BlockPool, Contents
from danlu.engine.request import RequestId


@dataclass(kw_only=True, eq=False)
class Track:
    """A request as scheduling sees it.

    tokens: prompt and answer so far. computed: how many of them are in the cache; contents: the
    names of its full blocks. num_found: prompt tokens that were found computed, at the last start.
    """

    id: RequestId
    tokens: list[int]
    root: Contents
    computed: int = 0
    blocks: list[Block] = field(default_factory=list)
    contents: list[Contents] = field(default_factory=list)
    num_found: int = 0

    @property
    def pending(self) -> int:
        """Tokens that are not computed yet; a single one is the next of an answer."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, kw_only=True)
class Share:
    """A request's tokens in one step: how many of those not yet computed."""

    track: Track
    tokens: int


class Scheduler:
    """Queues requests and shares out the steps.

    prompt_tokens: the budget of prompt chunks in a step, at least 1. num_requests: how many run at
    once; the others wait.
    """

    def __init__(self, pool: BlockPool, *, prompt_tokens: int, num_requests: int) -> None:
        self._pool = pool
        self._prompt_tokens = prompt_tokens
        self._num_requests = num_requests
        # Both in order of arrival; every one that waits, preempted ones excepted, is younger than
        # all that run.
        self._running: list[Track] = []
        self._waiting: list[Track] = []
        self.num_preemptions = 0

    @property
    def num_running(self) -> int:
        """Count the requests that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Count the requests that hold none."""
        return len(self._waiting)

    def add(self, track: Track) -> None:
        """Queue a request. Prompt and answer must fit into the whole pool."""
        self._waiting.append(track)

    def remove(self, track: Track, *, trusted: bool = True) -> None:
        """End a request and give its blocks back; see `BlockPool.release`."""
        if track in self._running:
            self._running.remove(track)
            self._stop(track, trusted=trusted)
        else:
            self._waiting.remove(track)

    def plan(self) -> list[Share]:
        """Share out the next step, and provide the blocks it writes to."""
        shares: dict[RequestId, Share] = {}
        for track in list(self._running):
            if track in self._running and track.pending == 1 and self._provide(track, 1, shares):
                shares[track.id] = Share(track=track, tokens=1)
        left = self._prompt_tokens
        for track in list(self._running):
            if left and track in self._running and track.pending > 1:
                left -= self._read(track, left, shares)
        left = self._admit(left, shares)
        return list(shares.values())

    def commit(self, shares: list[Share]) -> None:
        """Count the tokens of a step as computed."""
        size = self._pool.block_tokens
        for share in shares:
            track = share.track
            track.computed += share.tokens
            for index in range(len(track.contents), track.computed // size):
                before = track.contents[-1] if track.contents else track.root
                tokens = track.tokens[index * size : (index + 1) * size]
                track.contents.append(self._pool.learn(track.blocks[index], before, tokens))

    def check_invariants(self) -> None:
        """Assert what must hold between two steps."""
        self._pool.check_invariants(track.blocks for track in self._running)
        size = self._pool.block_tokens
        for track in self._running:
            assert 0 <= track.computed < len(track.tokens)
            assert len(track.blocks) * size >= track.computed
            assert len(track.contents) == track.computed // size
        assert all(not track.blocks and not track.computed for track in self._waiting)
        assert len(self._running) <= self._num_requests

    def _read(self, track: Track, budget: int, shares: dict[RequestId, Share]) -> int:
        """Give a prompt its chunk, as far as the blocks suffice; return its tokens."""
        wanted = min(track.pending, budget)
        if not self._provide(track, wanted, shares):
            room = len(track.blocks) * self._pool.block_tokens - track.computed
            wanted = min(wanted, room)
        if wanted > 0:
            shares[track.id] = Share(track=track, tokens=wanted)
        return max(wanted, 0)

    def _admit(self, budget: int, shares: dict[RequestId, Share]) -> int:
        """Start waiting requests while budget, places and blocks last, in order of arrival."""
        under_way = {self._next_block(track) for track in self._running}
        for track in list(self._waiting):
            if budget == 0 or len(self._running) >= self._num_requests:
                break
            found = self._pool.find(track.root, track.tokens[:-1])
            contents = found[-1][1] if found else track.root
            start = len(found) * self._pool.block_tokens
            key = self._key(track, start, contents)
            if key is not None and key in under_way:
                continue
            missing = self._blocks_for(len(track.tokens)) - len(found)
            self._pool.share([block for block, _contents in found])
            if missing > self._pool.num_available and self._running:
                self._pool.release([block for block, _contents in found])
                break
            track.blocks = [block for block, _contents in found]
            track.contents = [contents for _block, contents in found]
            track.computed = track.num_found = start
            self._waiting.remove(track)
            self._start(track)
            budget -= self._read(track, budget, shares)
            under_way.add(self._next_block(track))
        return budget

    def _start(self, track: Track) -> None:
        """Put a request among the running ones, where its arrival places it."""
        place = len(self._running)
        while place and self._running[place - 1].id > track.id:
            place -= 1
        self._running.insert(place, track)

    def _provide(self, track: Track, tokens: int, shares: dict[RequestId, Share]) -> bool:
        """Get the blocks for a request's next tokens, from younger ones if need be."""
        while len(track.blocks) < self._blocks_for(track.computed + tokens):
            block = self._pool.take(track.blocks[-1] if track.blocks else None)
            if block is not None:
                track.blocks.append(block)
            elif self._running[-1] is track:
                return False
            else:
                self._preempt(self._running[-1], shares)
        return True

    def _preempt(self, track: Track, shares: dict[RequestId, Share]) -> None:
        self.num_preemptions += 1
        shares.pop(track.id, None)
        self._running.remove(track)
        self._stop(track)
        place = next(
            (i for i, other in enumerate(self._waiting) if other.id > track.id), len(self._waiting)
        )
        self._waiting.insert(place, track)

    def _stop(self, track: Track, *, trusted: bool = True) -> None:
        self._pool.release(track.blocks, trusted=trusted)
        track.blocks, track.contents, track.computed = [], [], 0

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._pool.block_tokens)

    def _next_block(self, track: Track) -> tuple[Contents, tuple[int, ...]] | None:
        """Name the block that a request is filling while it reads its prompt."""
        if track.pending <= 1:
            return None
        contents = track.contents[-1] if track.contents else track.root
        return self._key(track, len(track.contents) * self._pool.block_tokens, contents)

    def _key(
        self, track: Track, start: int, contents: Contents
    ) -> tuple[Contents, tuple[int, ...]] | None:
        """Name a block by what stands before it and its tokens; None where it cannot be full."""
        end = start + self._pool.block_tokens
        if end >= len(track.tokens):
            return None
        return contents, tuple(track.tokens[start:end])
