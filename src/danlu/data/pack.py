"""Packing: examples behind each other in one row of tokens, without padding.

Every example stays a segment of its own: positions restart, and attention does not cross the
border. A row may have several examples; a segment's key names both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.data.examples import Example


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One packed microstep of T tokens in S segments with N supervised tokens.

    tokens, positions: int64 [T]. supervised_indices: int64 [N], the places whose next token is
    supervised; targets: int64 [N], these next tokens. segment_keys name row and example.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    segment_lengths: tuple[int, ...]
    segment_keys: tuple[str, ...]
    supervised_indices: NDArray[np.int64]
    targets: NDArray[np.int64]


def pack(examples: Sequence[Example], max_tokens: int) -> list[Batch]:
    """Pack examples into few batches of at most `max_tokens`; a longer example gets its own."""
    packed = bins([len(example.tokens) for example in examples], max_tokens)
    return [_join([examples[index] for index in members]) for members in packed]


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


def _join(examples: Sequence[Example]) -> Batch:
    lengths = tuple(len(example.tokens) for example in examples)
    tokens = np.concatenate([example.tokens for example in examples]).astype(np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths])
    supervised = np.concatenate([example.supervised for example in examples])
    # A segment's first token has no token before it that could predict it.
    supervised[positions == 0] = False
    targets_at = np.flatnonzero(supervised)
    return Batch(
        tokens=tokens,
        positions=positions,
        segment_lengths=lengths,
        segment_keys=tuple(f"{example.row}.{example.part}" for example in examples),
        supervised_indices=targets_at - 1,
        targets=tokens[targets_at],
    )
