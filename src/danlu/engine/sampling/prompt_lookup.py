"""Speculation by prompt look-up: what followed the last tokens before may follow them again.

Answers repeat their prompt, and themselves: a text that is corrected, code, the columns of a table.
So the tokens behind an earlier occurrence of the last few are computed together with the next one,
on trial: one step reads the weights for all of them (A. Saxena, Prompt Lookup Decoding, 2023). What
is chosen stays the same, for each is chosen by its own row and random number; a step that was tried
in vain costs more than one that was not, so it is given up where few are taken.
"""

from __future__ import annotations

from collections.abc import Sequence

# Tokens that must have occurred before, and those that are tried behind them. With the next one
# they are 4 rows, for which the kernels of few rows still pay on all devices.
_SAME, MOST_TRIED = 3, 3
# How much an earlier trial counts beside the one that follows, and how many tokens must be taken of
# one in the mean. On two cores a step of 4 rows takes 1.0 to 1.3 times as long as one of one row.
_FADES, _LEAST_TAKEN = 0.8, 0.6
# For how many tokens nothing is tried where fewer were.
_PAUSE = 64


class PromptLookup:
    """Of one request: where its tokens occurred before, and how often that told what follows."""

    def __init__(self) -> None:
        self._following: dict[tuple[int, ...], int] = {}  # where the tokens behind these begin
        self._num_known = _SAME
        self._trials, self._taken = 1.0, 1.0
        self._resumes = 0

    def tokens_behind(self, tokens: Sequence[int], most: int = MOST_TRIED) -> list[int]:
        """Return what may follow the tokens of prompt and answer; none where it does not pay."""
        if len(tokens) < self._resumes:
            return []
        for end in range(self._num_known, len(tokens)):
            self._following[tuple(tokens[end - _SAME : end])] = end
        self._num_known = max(self._num_known, len(tokens))
        place = self._following.get(tuple(tokens[-_SAME:]))
        if place is None:
            return []
        # What repeats goes on repeating where the tokens end.
        period = len(tokens) - place
        return [tokens[place + number % period] for number in range(most)]

    def tried(self, taken: int, num_tokens: int) -> None:
        """Count a trial of which so many were taken; num_tokens: that there are now."""
        self._trials = _FADES * self._trials + 1
        self._taken = _FADES * self._taken + taken
        if self._taken < _LEAST_TAKEN * self._trials:
            self._resumes = num_tokens + _PAUSE
            self._trials, self._taken = 1.0, 1.0
