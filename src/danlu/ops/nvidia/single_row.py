"""When a projection of a single row is computed by one kernel."""

from __future__ import annotations

from torch import Tensor

# The most outputs: of a larger matrix, such as the output matrix of a big vocabulary, a product
# alone takes so long that its own kernel, which reads it faster, is what counts.
_MOST_OUTPUTS = 1 << 16


def is_single_row(rows: int, weight: object) -> bool:
    """Whether `row_kernels` suits so many rows and what stands for a matrix."""
    return rows == 1 and isinstance(weight, Tensor) and len(weight) <= _MOST_OUTPUTS
