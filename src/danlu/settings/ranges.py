"""Ranges of numbers, declared in the type of a field, of settings classes and of dataclasses.

Knows no pydantic, so that rooms without settings can use it. `check_ranges` has the words of most
commands; others word the refusal themselves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from danlu.errors import UsageError
from danlu.language import _


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers a field may hold. None is always allowed; infinity and NaN never.

    least, greatest: the ends, both allowed. above: `least` itself is not allowed.
    text: the range as an error message writes it. example: a value inside, for the fix.
    """

    least: float
    greatest: float = math.inf
    above: bool = False
    text: str = ""
    example: str = ""

    def holds(self, value: float | None) -> bool:
        """Tell whether a value is allowed."""
        if value is None:
            return True
        starts = self.least < value if self.above else self.least <= value
        return starts and value <= self.greatest and value < math.inf


PositiveInt = Annotated[int, Range(least=1)]
NonNegativeInt = Annotated[int, Range(least=0)]
NonNegativeFloat = Annotated[float, Range(least=0)]


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


def check_ranges(settings: object, names: Collection[str] = ()) -> None:
    """Raise UsageError for the first setting out of range; of `names` only, if any are given."""
    for name, value, allowed in out_of_range(settings):
        if names and name not in names:
            continue
        raise UsageError(
            _("--{name} must be more than 0.").format(name=name)
            if allowed.above
            else _("--{name} must be {least} or more.").format(name=name, least=allowed.least),
            why=_("It is {value}.").format(value=value),
            fix=f"--{name} {allowed.example or allowed.least}",
        )
