"""ROUGE: how much of a reference an answer has, and how much of the answer is in the reference.

ROUGE-N counts common runs of N words, ROUGE-L the longest common subsequence; the figure is the
F-measure, from 0 to 1 (Lin 2004). Knows lists of words; must not know where they come from.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence


def rouge_n(answer: Sequence[str], reference: Sequence[str], n: int) -> float:
    """Return ROUGE-N of one answer, 0 to 1."""
    runs = [
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        for words in (answer, reference)
    ]
    return _f_measure((runs[0] & runs[1]).total(), *(one.total() for one in runs))


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Return ROUGE-L of one answer, 0 to 1."""
    return _f_measure(_num_common(answer, reference), len(answer), len(reference))


def _num_common(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    A row of the usual table is the bits of one number (Hyyro 2004, "Bit-parallel LCS-length
    computation revisited"): a bit is 0 where the length grows.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(right):
        places[word] |= 1 << place
    full = (1 << len(right)) - 1
    row = full
    for word in left:
        same = row & places[word]
        row = ((row + same) | (row - same)) & full
    return len(right) - row.bit_count()


def _f_measure(num_common: int, num_answer: int, num_reference: int) -> float:
    # 2PR / (P + R) with P = common / answer, R = common / reference.
    return 2 * num_common / (num_answer + num_reference) if num_common else 0.0
