"""Ranges of numbers, declared in the type of a field, of settings classes and of dataclasses.

Knows no pydantic, so that rooms without settings can use it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from danlu.language import _


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers a field may hold. None is always allowed; infinity and NaN never.

    least, greatest: the ends, both allowed. above: `least` itself is not allowed; below: `greatest`
    is not. or_whole: from 1 on only whole numbers, below 1 it is a share.
    """

    least: float
    greatest: float = math.inf
    above: bool = False
    below: bool = False
    or_whole: bool = False

    def holds(self, value: float | None) -> bool:
        """Tell whether a value is allowed."""
        if value is None:
            return True
        starts = self.least < value if self.above else self.least <= value
        ends = value < self.greatest if self.below else value <= self.greatest
        if not (starts and ends and value < math.inf):
            return False
        return not self.or_whole or value < 1 or value == math.floor(value)

    def rule(self) -> str:
        """Say what is allowed, as a clause."""
        if self.or_whole:
            sentence = _("it must be a share from {least} to below 1, or a whole number")
            if self.above:
                sentence = _("it must be a share of more than {least}, or a whole number")
        elif self.greatest == math.inf:
            sentence = _("it must be {least} or more")
            if self.above:
                sentence = _("it must be more than {least}")
        else:
            sentence = _("it must be from {least} to {greatest}")
            if self.above:
                sentence = _("it must be more than {least} and at most {greatest}")
            elif self.below:
                sentence = _("it must be from {least} to below {greatest}")
        return sentence.format(least=self.least, greatest=self.greatest)


PositiveInt = Annotated[int, Range(least=1)]
NonNegativeInt = Annotated[int, Range(least=0)]
PositiveFloat = Annotated[float, Range(least=0, above=True)]
NonNegativeFloat = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, greatest=1)]
ShareBelowOne = Annotated[float, Range(least=0, greatest=1, below=True)]
ShareOrCount = Annotated[float, Range(least=0, or_whole=True)]
Seed = Annotated[int, Range(least=0, greatest=2**63 - 1)]


@cache
def ranges_of(cls: type[Any]) -> Mapping[str, Range]:
    """List the ranges of a class's fields by name, in the order of declaration."""
    return {
        name: note
        for name, hint in get_type_hints(cls, include_extras=True).items()
        for kind in (hint, *get_args(hint))  # PositiveInt | None holds the range in a member
        for note in getattr(kind, "__metadata__", ())
        if isinstance(note, Range)
    }


def out_of_range(record: Any) -> Iterator[tuple[str, Any, Range]]:
    """Yield (name, value, range) of every field whose value is not allowed."""
    for name, allowed in ranges_of(record.__class__).items():
        value = getattr(record, name)
        if not allowed.holds(value):
            yield name, value, allowed
