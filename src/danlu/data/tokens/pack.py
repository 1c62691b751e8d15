"""Packing: examples behind each other in one row of tokens.

Every example stays a segment of its own: positions restart, and attention does not cross the
border. A row may have several examples; a segment's key names both. Nothing is padded, but for a
few tokens at the end where a device wants a size that it has met before (`filled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.data.tokens.examples import Example


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One packed microstep of T tokens in S segments with N supervised tokens.

    numbers: int64 [2T + 2N + S + 1], all that a device needs, so that it gets it in one piece; the
    arrays below are parts of it. segment_keys name row and example. num_filler: tokens of the last
    segment if that belongs to no example.
    """

    numbers: NDArray[np.int64]
    segment_lengths: tuple[int, ...]
    segment_keys: tuple[str, ...]
    num_filler: int = 0

    @property
    def size(self) -> int:
        """T."""
        return sum(self.segment_lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of examples: T without the filler."""
        return self.size - self.num_filler

    @property
    def num_targets(self) -> int:
        """N."""
        return (len(self.numbers) - len(self.segment_lengths) - 1) // 2 - self.size

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """How `numbers` splits: tokens, positions, supervised_indices, targets, offsets."""
        targets = self.num_targets
        return self.size, self.size, targets, targets, len(self.segment_lengths) + 1

    @property
    def tokens(self) -> NDArray[np.int64]:
        """int64 [T]."""
        return self._part(0)

    @property
    def positions(self) -> NDArray[np.int64]:
        """int64 [T], from 0 in every segment."""
        return self._part(1)

    @property
    def supervised_indices(self) -> NDArray[np.int64]:
        """int64 [N], the places whose next token is supervised."""
        return self._part(2)

    @property
    def targets(self) -> NDArray[np.int64]:
        """int64 [N], these next tokens."""
        return self._part(3)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64 [S + 1], where each segment begins, and T."""
        return self._part(4)

    def _part(self, index: int) -> NDArray[np.int64]:
        start = sum(self.sizes[:index])
        return self.numbers[start : start + self.sizes[index]]


def pack(examples: Sequence[Example], max_tokens: int) -> list[Batch]:
    """Pack examples into few batches of at most `max_tokens`; a longer example gets its own."""
    packed = bins([len(example.tokens) for example in examples], max_tokens)
    return [_join([examples[index] for index in members]) for members in packed]


def filled(batch: Batch, multiple: int) -> Batch:
    """Append a segment that teaches nothing, so that T is a multiple of `multiple` tokens."""
    missing = -batch.size % multiple
    if not missing:
        return batch
    filler = np.arange(missing)
    parts = [
        *(batch.tokens, np.zeros(missing, dtype=np.int64)),
        *(batch.positions, filler),
        *(batch.supervised_indices, batch.targets),
        *(batch.offsets, np.array([batch.size + missing])),
    ]
    return Batch(
        numbers=np.concatenate(parts),
        segment_lengths=(*batch.segment_lengths, missing),
        segment_keys=(*batch.segment_keys, "filler"),
        num_filler=missing,
    )


def bins(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return which lengths go together: their indices, each bin in order.

    First fit by falling length (Johnson 1973), so never more than 11/9 of the fewest bins plus one.
    Deterministic.
    """
    found: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        home = next((b for b, free in enumerate(room) if length <= free), None)
        if home is None:
            found.append([])
            room.append(max_tokens)
            home = len(found) - 1
        found[home].append(index)
        room[home] -= length
    return sorted(sorted(members) for members in found)


def shares(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Divide lengths among `count` processes about equally: the indices of each, in order.

    The longest first, each to the one that has least so far (Graham 1969), so the largest share is
    never more than 4/3 of the least possible one. Deterministic; a share may be empty.
    """
    found: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = loads.index(min(loads))
        found[least].append(index)
        loads[least] += lengths[index]
    return [sorted(members) for members in found]


def _join(examples: Sequence[Example]) -> Batch:
    lengths = tuple(len(example.tokens) for example in examples)
    tokens = np.concatenate([example.tokens for example in examples]).astype(np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths])
    supervised = np.concatenate([example.supervised for example in examples])
    # A segment's first token has no token before it that could predict it.
    supervised[positions == 0] = False
    targets_at = np.flatnonzero(supervised)
    return Batch(
        numbers=np.concatenate(
            [tokens, positions, targets_at - 1, tokens[targets_at], np.cumsum([0, *lengths])]
        ),
        segment_lengths=lengths,
        segment_keys=tuple(example.key for example in examples),
    )


# A batch of one learned token, for a process that has none left while others compute theirs.
IDLE = _join(
    [
        Example(
            tokens=np.zeros(2, dtype=np.int32), supervised=np.array([False, True]), row=-1, part=0
        )
    ]
)
