"""LoRA's second product on a merged projection, and its gradients.

Each target of the projection has its matrix b, its rows of the output and its columns of the narrow
t: y[out] += scaling * t[ranks] b^T. Target by target, or by one matrix, in which the b stand on the
diagonal: zeros are multiplied, too, but a card's host starts one product for all of them, each way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ops import reference
from danlu.ops.choice import Operation, example


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The b of a merged projection's targets.

    parts: each target's matrix [out, rank]. places: its rows of the output, its columns of t.
    whole: [out of the projection, all ranks], zero but for the parts, which are views of it; None
    where they are multiplied one by one.
    """

    parts: tuple[Tensor, ...]
    places: tuple[tuple[slice, slice], ...]
    whole: Tensor | None = None


def add_low_rank(y: Tensor, t: Tensor, blocks: Blocks, scaling: float) -> None:
    """Add to y [T, out] in place what t [T, all ranks] becomes."""
    LOW_RANK.on(y.device).add(y, t, blocks, scaling)


def low_rank_gradients(
    dy: Tensor, t: Tensor, blocks: Blocks, scaling: float
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradient of t, and of each b, in fp32 or in the dtype of t."""
    return LOW_RANK.on(dy.device).gradients(dy, t, blocks, scaling)


def add_input_gradient(dn: Tensor, dt: Tensor, a: Tensor) -> None:
    """Add to dn [T, in] in place what dt [T, all ranks] is to the input of a [all ranks, in]."""
    LOW_RANK.on(dn.device).add_input(dn, dt, a)


def multiplies_whole(device: torch.device) -> bool:
    """Whether a device's variant takes `Blocks.whole`."""
    return LOW_RANK.on(device).takes_whole


class LowRankPasses(NamedTuple):
    """A variant: the three functions above, and whether it takes `Blocks.whole`."""

    add: Callable[[Tensor, Tensor, Blocks, float], None]
    gradients: Callable[[Tensor, Tensor, Blocks, float], tuple[Tensor, list[Tensor]]]
    add_input: Callable[[Tensor, Tensor, Tensor], None]
    takes_whole: bool


def _add_by_target(y: Tensor, t: Tensor, blocks: Blocks, scaling: float) -> None:
    for b, (out, ranks) in zip(blocks.parts, blocks.places, strict=True):
        y[:, out] += F.linear(t[:, ranks] * scaling, b)


def _gradients_by_target(
    dy: Tensor, t: Tensor, blocks: Blocks, scaling: float
) -> tuple[Tensor, list[Tensor]]:
    dt, dbs = torch.empty_like(t), []
    for b, (out, ranks) in zip(blocks.parts, blocks.places, strict=True):
        dt[:, ranks] = (dy[:, out] @ b) * scaling
        dbs.append((dy[:, out].t() @ t[:, ranks]).float().mul_(scaling))
    return dt, dbs


def _add_input(dn: Tensor, dt: Tensor, a: Tensor) -> None:
    dn.addmm_(dt, a)


def _add_as_one(y: Tensor, t: Tensor, blocks: Blocks, scaling: float) -> None:
    assert blocks.whole is not None
    y.addmm_(t, blocks.whole.t(), alpha=scaling)


def _gradients_as_one(
    dy: Tensor, t: Tensor, blocks: Blocks, scaling: float
) -> tuple[Tensor, list[Tensor]]:
    whole = blocks.whole
    assert whole is not None
    # With beta 0 what is added to is not read: so the factor costs no operation of its own.
    dt = torch.addmm(torch.empty_like(t), dy, whole, beta=0, alpha=scaling)
    db = torch.addmm(torch.empty_like(whole), dy.t(), t, beta=0, alpha=scaling)
    return dt, [db[place] for place in blocks.places]


def _twin_add(y: Tensor, t: Tensor, blocks: Blocks, scaling: float) -> None:
    y += reference.low_rank(t, *blocks.parts, places=blocks.places, scaling=scaling)


def _twin_add_input(dn: Tensor, dt: Tensor, a: Tensor) -> None:
    dn += dt @ a


def _twin_gradients(
    dy: Tensor, t: Tensor, blocks: Blocks, scaling: float
) -> tuple[Tensor, list[Tensor]]:
    leaves = [part.detach().requires_grad_() for part in (t, *blocks.parts)]
    with torch.enable_grad():
        added = reference.low_rank(*leaves, places=blocks.places, scaling=scaling)
    dt, *dbs = torch.autograd.grad(added, leaves, dy)
    return dt, dbs


def _trial(passes: LowRankPasses, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    places = ((slice(0, 24), slice(0, 4)), (slice(32, 40), slice(4, 8)))
    y, dy = (example(7, 40, device=device, dtype=dtype, seed=seed) for seed in (0, 1))
    t = example(7, 8, device=device, dtype=dtype)
    whole = torch.zeros(40, 8, device=device, dtype=dtype)
    for out, ranks in places:
        shape = (out.stop - out.start, ranks.stop - ranks.start)
        whole[out, ranks] = example(*shape, device=device, dtype=dtype)
    blocks = Blocks(
        parts=tuple(whole[place] for place in places),
        places=places,
        whole=whole if passes.takes_whole else None,
    )
    passes.add(y, t, blocks, 1.5)
    dt, dbs = passes.gradients(dy, t, blocks, 1.5)
    dn = example(7, 32, device=device, dtype=dtype)
    passes.add_input(dn, t, example(8, 32, device=device, dtype=dtype))
    return [y, dt, *dbs, dn]


LOW_RANK: Operation[LowRankPasses] = Operation(
    "low_rank",
    {
        "by_target": LowRankPasses(
            _add_by_target, _gradients_by_target, _add_input, takes_whole=False
        ),
        "as_one": LowRankPasses(_add_as_one, _gradients_as_one, _add_input, takes_whole=True),
        "reference": LowRankPasses(_twin_add, _twin_gradients, _twin_add_input, takes_whole=False),
    },
    _trial,
)
