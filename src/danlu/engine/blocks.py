"""Which request uses which block of the cache, and what is in it. Plain Python, no tensors.

A block holds the keys and values of `block_tokens` tokens. It is free (its contents do not count),
used by one or more requests, or kept: unused, but its contents are known and may be found again.
Kept blocks are evicted in order of their last use, oldest first.

Contents are found by exact token ids: a full block is known under the contents before it and its
own ids, so what is found has been compared id by id and no hash can mislead. The first block of a
request follows a root, one for each adapter, because an adapter changes keys and values, and for
each owner, because what others have asked is nobody's business.

Blocks of one request should lie side by side: attention reads a run of them without copying.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NewType

Block = NewType("Block", int)
# Names the contents of a block together with all that stands before it.
Contents = NewType("Contents", int)
_Key = tuple[Contents, tuple[int, ...]]

# How many kept blocks are evicted at once: mostly neighbours, so that there is room for a run.
_EVICTED_AT_ONCE = 64


class BlockPool:
    """The blocks of one cache."""

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._free = set(range(num_blocks))
        self._users = [0] * num_blocks
        self._kept: OrderedDict[Block, None] = OrderedDict()
        self._known: dict[_Key, tuple[Block, Contents]] = {}
        self._key_of: dict[Block, _Key] = {}
        self._names = itertools.count()

    @property
    def num_available(self) -> int:
        """Count the blocks that could be taken now."""
        return len(self._free) + len(self._kept)

    def num_available_beside(self, known: Iterable[Block]) -> int:
        """Count the blocks that could be taken if some known ones were shared before."""
        return self.num_available - sum(block in self._kept for block in known)

    @property
    def num_used(self) -> int:
        """Count the blocks that requests use."""
        return self.num_blocks - self.num_available

    def new_root(self) -> Contents:
        """Name a new beginning: nothing known follows it."""
        return Contents(next(self._names))

    def find(self, root: Contents, tokens: Sequence[int]) -> list[tuple[Block, Contents]]:
        """Return the known blocks, in order, that begin `tokens`. Nothing is taken."""
        found: list[tuple[Block, Contents]] = []
        contents, size = root, self.block_tokens
        for start in range(0, len(tokens) - size + 1, size):
            place = self._known.get((contents, tuple(tokens[start : start + size])))
            if place is None:
                break
            found.append(place)
            contents = place[1]
        return found

    def share(self, blocks: Iterable[Block]) -> None:
        """Use known blocks, beside the requests that use them already."""
        for block in blocks:
            self._kept.pop(block, None)
            self._users[block] += 1

    def take(self, after: Block | None) -> Block | None:
        """Take a block, the one behind `after` if it is free; return None where all are used."""
        if not self._free:
            self._evict()
            if not self._free:
                return None
        if after is not None and after + 1 in self._free:
            return self._use(Block(after + 1))
        return self._use(self._roomy())

    def learn(self, block: Block, before: Contents, tokens: Sequence[int]) -> Contents:
        """Record what a used block holds, now that it is full; return the name of its contents.

        Where another block is known for the same, this one stays unknown.
        """
        key = (before, tuple(tokens))
        known = self._known.get(key)
        if known is not None:
            return known[1]
        contents = Contents(next(self._names))
        self._known[key] = (block, contents)
        self._key_of[block] = key
        return contents

    def release(self, blocks: Sequence[Block], *, trusted: bool = True) -> None:
        """Stop using a request's blocks; those without users are kept if their contents are known.

        trusted: the contents are right; else they are never found again.
        """
        if not trusted:
            for block in blocks:
                if block in self._key_of:
                    self._unlearn(block)
        # From the end: what follows is worth less than what it follows, so it is evicted first.
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                if block in self._key_of:
                    self._kept[block] = None
                else:
                    self._free.add(block)

    def forget(self, root: Contents) -> None:
        """Free all that is kept behind a root; used blocks are freed when they are released."""
        behind = {root}
        for (before, _tokens), (_block, contents) in list(self._known.items()):
            if before in behind:  # contents are named after what they follow, so in this order
                behind.add(contents)
        for block, (before, _tokens) in list(self._key_of.items()):
            if before in behind:
                self._unlearn(block)
                if block in self._kept:
                    del self._kept[block]
                    self._free.add(block)

    def _use(self, block: Block) -> Block:
        self._free.remove(block)
        self._users[block] = 1
        return block

    def _evict(self) -> None:
        for _ in range(min(_EVICTED_AT_ONCE, len(self._kept))):
            block, _none = self._kept.popitem(last=False)
            self._unlearn(block)
            self._free.add(block)

    def _unlearn(self, block: Block) -> None:
        del self._known[self._key_of.pop(block)]

    def _roomy(self) -> Block:
        """Choose where a new run begins: in the middle of the largest gap.

        So it can grow, and so can the run that ends where the gap begins. A gap at the beginning of
        the cache is taken from its start: no run ends there.
        """
        best, best_size = 0, 0
        start = previous = -2
        for block in [*sorted(self._free), self.num_blocks + 1]:
            if block != previous + 1:
                if previous - start + 1 > best_size and start >= 0:
                    best, best_size = start, previous - start + 1
                start = block
            previous = block
        return Block(best if best == 0 else best + best_size // 2)
