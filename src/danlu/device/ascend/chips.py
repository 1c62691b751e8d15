"""What Ascend's chips can do, by name, as data. No torch here.

The runtime names them in full (`Ascend910B3`), npu-smi in short (`910B3`), two traps among them:
`910B` without a number is of the first generation, and npu-smi's `Ascend910` is a 910C, which the
runtime calls `Ascend910_93..`. Sources: torch_npu's NpuVariables.cpp (the names; no bf16 before
910B1; which chips have infinities), its INF_NAN_MODE_ENABLE, CANN's list of products.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A family of chips. names: a pattern of both spellings.

    has_bf16: it multiplies bfloat16. saturates: a number that is too large becomes the largest one
    instead of infinity, and one that is none becomes 0, so an overflow is never seen. The maker
    sells it for_training.
    """

    family: str
    names: str
    has_bf16: bool
    saturates: bool
    for_training: bool

    @property
    def can_train(self) -> bool:
        """Whether danlu trains on it."""
        return self.for_training and self.has_bf16

    @property
    def can_answer(self) -> bool:
        """Whether danlu computes on it at all: it is made for answers, or has bfloat16."""
        return self.has_bf16 or not self.for_training


CHIPS = (
    Chip(
        family="910A",
        names=r"(?:Ascend)?910(?:PremiumA|ProA|ProB|A|B)",
        has_bf16=False,
        saturates=True,
        for_training=True,
    ),
    Chip(
        family="910B",
        names=r"(?:Ascend)?910B\d.*",
        has_bf16=True,
        saturates=False,
        for_training=True,
    ),
    Chip(
        family="910C",
        names=r"Ascend910_93\d\d|Ascend910|(?:Ascend)?910C\d*",
        has_bf16=True,
        saturates=False,
        for_training=True,
    ),
    Chip(
        family="310P",
        names=r"(?:Ascend)?310P\d*",
        has_bf16=False,
        saturates=True,
        for_training=False,
    ),
)


def chip_named(name: str) -> Chip | None:
    """Return the family of a chip, named by the runtime or by npu-smi; None for one not known."""
    return next((chip for chip in CHIPS if re.fullmatch(chip.names, name.strip())), None)
