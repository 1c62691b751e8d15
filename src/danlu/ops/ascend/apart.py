"""LoRA's second products as one each way, added behind: a kernel each, where `addmm` is four.

With 16-bit numbers `aclnnAddmm` multiplies into fp32, copies what it adds to into fp32, adds, and
rounds (ops-nn, November 2026). The gradients add to nothing.
"""

from __future__ import annotations

from torch import Tensor

from danlu.ops.low_rank import LOW_RANK, Blocks, LowRankPasses


def _add(y: Tensor, t: Tensor, blocks: Blocks, scaling: float) -> None:
    assert blocks.whole is not None
    y.add_(t @ blocks.whole.t(), alpha=scaling)


def _add_input(dn: Tensor, dt: Tensor, a: Tensor) -> None:
    dn.add_(dt @ a)


APART = LowRankPasses(_add, LOW_RANK.variants["as_one"].gradients, _add_input, takes_whole=True)
