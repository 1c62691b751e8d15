"""The tokens of whole data sets in flat arrays; examples are views into them.

Knows how the arrays belong together. Must not know how they are made or kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

import numpy as np
from numpy.typing import NDArray

from danlu.data.findings import Finding
from danlu.data.tokens.examples import Example, TokenCost


@dataclass(frozen=True, kw_only=True)
class TokenizedData:
    """All R rows of some data sets, in order; a row that cannot be used has no examples.

    tokens: int32 [T] and supervised: bool [T], example after example. example_ends: int64 [E],
    where each ends in them. row_ends: int64 [R], where each row's examples end in example_ends.
    lengths: int32 [R], tokens of a row's longest example before anything was cut, 0 for a row that
    cannot be used. cut_tokens: int32 [R], how many were cut out. row_digests, question_digests:
    uint64 [R], equal for equal rows and questions, 0 for a row that cannot be used.
    """

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    example_ends: NDArray[np.int64]
    row_ends: NDArray[np.int64]
    lengths: NDArray[np.int32]
    cut_tokens: NDArray[np.int32]
    row_digests: NDArray[np.uint64]
    question_digests: NDArray[np.uint64]
    places: Sequence[str]
    findings: tuple[Finding, ...]

    @property
    def num_rows(self) -> int:
        """How many rows the files have."""
        return len(self.row_ends)

    def examples(self, row: int) -> list[Example]:
        """Return the examples of a row, as views into the arrays."""
        first = int(self.row_ends[row - 1]) if row else 0
        found = []
        for number in range(first, int(self.row_ends[row])):
            start = int(self.example_ends[number - 1]) if number else 0
            tokens = slice(start, int(self.example_ends[number]))
            found.append(
                Example(
                    tokens=self.tokens[tokens],
                    supervised=self.supervised[tokens],
                    row=row,
                    part=number - first,
                )
            )
        return found

    def usable(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Leave out the rows that have no examples."""
        return indices[np.diff(self.row_ends, prepend=0)[indices] > 0]


class TokenizedRows(Sequence[Sequence[Example]]):
    """Some rows of tokenized data, in any order; their examples are made when asked for."""

    def __init__(self, data: TokenizedData, indices: NDArray[np.int64]) -> None:
        self._data = data
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, at: int) -> Sequence[Example]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sequence[Example]]: ...
    def __getitem__(self, at: int | slice) -> Sequence[Example] | Sequence[Sequence[Example]]:
        if isinstance(at, slice):
            return TokenizedRows(self._data, self.indices[at])
        return self._data.examples(int(self.indices[at]))

    @property
    def places(self) -> list[str]:
        """Where each row stands, as file:line."""
        return [self._data.places[index] for index in self.indices]

    def digests(self) -> Iterator[tuple[int, int, str]]:
        """Yield digest of the row, digest of its question and place, in the order of the files."""
        data = self._data
        for index in np.sort(self.indices):
            row, question = data.row_digests[index], data.question_digests[index]
            yield int(row), int(question), data.places[index]

    def cost(self) -> TokenCost:
        """Count rows, examples and tokens."""
        num_examples = num_tokens = num_supervised = 0
        for example in chain.from_iterable(self):
            num_examples += 1
            num_tokens += len(example.tokens)
            num_supervised += int(np.count_nonzero(example.supervised))
        return TokenCost(
            num_rows=len(self),
            num_examples=num_examples,
            num_tokens=num_tokens,
            num_supervised=num_supervised,
        )
