"""Choosing a token of each row of logits on the device, by that row's own settings.

So a step that decodes need not wait for its host. What is asked here is what most people ask: the
likeliest token, or a draw from few of them; the rest the host does (`engine/sampling`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.device.memory import sent
from danlu.device.variants import REFERENCE, TRITON
from danlu.ops import reference
from danlu.ops.choice import Operation, example

# From so many of a row at most a token is drawn.
MOST_DRAWN = reference.MOST_DRAWN
Variant = Callable[[Tensor, Tensor], Tensor]


class Draw(NamedTuple):
    """What a row asks for.

    top_k: 0 takes the likeliest token, the first of several; else 1 to MOST_DRAWN, and those that
    tie with the last stay, as far as they are among the MOST_DRAWN largest. top_p: of several
    alike those with larger ids stay first. chance: in [0, 1), where among the candidates, in the
    order of their ids, the draw falls.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    chance: float = 0.0


def draw(logits: Tensor, asked: Tensor) -> Tensor:
    """Choose a token for each row of logits [N, V]: int32 [2, N].

    asked: fp32 [5, N], the fields of a `Draw` for each row. The first of what is returned are ids,
    always of the vocabulary; the second tell whether (1 or 0) a row's numbers are finite, -infinity
    excepted.
    """
    return DRAW.on(logits.device)(logits, asked)


def draws_rows(device: torch.device) -> bool:
    """Whether a device shall choose by itself; the CPU is its own host."""
    return DRAW.name_on(device) != REFERENCE


def draws_at_once(device: torch.device) -> bool:
    """Whether that is so few operations that they pay where each is started by the host, too."""
    return DRAW.name_on(device) == TRITON


def _trial(variant: Variant, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Ids as rows of a matrix, so that a neighbour's is as wrong as any other."""
    logits = 2 * example(9, 8300, device=device, dtype=dtype)
    rows = [
        Draw(),
        Draw(0.6, 20, 0.95, 0.0, 0.3),
        Draw(0.6, 20, 0.95, 0.0, 0.99),
        Draw(1.0, 64, 1.0, 0.05, 0.5),
        Draw(1.5, 64, 0.7, 0.0, 0.75),
        Draw(1.0, 1, 0.01, 0.0, 0.999),
        Draw(2.0, 40, 0.9, 0.1, 0.05),
        Draw(),
        Draw(0.6, 20, 0.95, 0.0, 0.3),
    ]
    logits[5] = logits[5].round()  # several are the largest
    logits[7:, 8000] = torch.nan
    asked = sent(torch.tensor(rows).t().contiguous(), device)
    with torch.no_grad():
        ids, is_finite = variant(logits, asked)
    found = ids[:7, None] == torch.arange(logits.shape[1], device=device)
    return [found.float(), is_finite.float()]


DRAW: Operation[Variant] = Operation(
    "draw", {REFERENCE: reference.draw, "torch": reference.draw}, _trial
)
