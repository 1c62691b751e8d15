"""Which rows are held out and in which order the others are used: pure functions of the seed.

No random state exists, so a resumed run continues with exactly the rows it would have had.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Where nothing is said, a tenth is held out of data with enough rows; more than the most tells no
# more.
_ENOUGH_ROWS = 50
_MOST_HELD_OUT = 100


def split(
    num_rows: int, *, val_size: float | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of training and of held-out rows.

    val_size: a fraction below 1, or a number of rows; None: a tenth of 50 rows or more, at most 100
    rows. The same rows as LLaMA-Factory holds out: numpy's default_rng(seed).permutation, the first
    ceil(fraction * rows) of it held out.
    """
    if val_size is None:
        val_size = min(num_rows // 10, _MOST_HELD_OUT) if num_rows >= _ENOUGH_ROWS else 0
    if val_size <= 0:
        return np.arange(num_rows), np.arange(0)
    num_held_out = math.ceil(val_size * num_rows) if val_size < 1 else int(val_size)
    order = np.random.default_rng(seed).permutation(num_rows)
    return order[num_held_out:], order[:num_held_out]


def epoch_order(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which epoch `epoch` (from 0) uses the rows: a permutation."""
    return np.random.default_rng((seed, epoch)).permutation(num_rows)
