"""JSON files of models, runs and reports: small objects, read without trust.

Size, nesting and numbers are bounded before anyone uses them, so that a damaged or hostile file
ends in one sentence. Knows JSON; which fields there are, and what they mean, is for the caller.
Data sets have readers of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import DataError
from danlu.files.os_errors import readable
from danlu.files.regular import read_regular
from danlu.language import _
from danlu.reasons import as_sentence, reason_of

# The weight index of a model of 200 shards has 100 KB.
MOST_BYTES = 16 << 20
MOST_DEPTH = 64
# What fits into 64 bits; a longer number is no size, id or setting.
_MOST_DIGITS = 19


@dataclass(frozen=True, kw_only=True)
class JsonFile:
    """The object in a file. fix: what to do when one of its fields cannot be used."""

    path: Path
    fields: Mapping[str, Any]
    fix: str

    def broken(self, why: str) -> DataError:
        """Build the error that the file cannot be used."""
        return DataError(_("{path} cannot be used.").format(path=self.path), why=why, fix=self.fix)

    def integer(
        self, name: str, default: int | None = None, *, least: int = 1, most: int = 2**63 - 1
    ) -> int:
        """Return a whole number; null and absence mean the default. Raises DataError."""
        value = self._value(name, default)
        if type(value) is not int or value < least:
            needed = (
                _("{name} is {value}; a positive whole number is needed")
                if least == 1
                else _("{name} is {value}; a whole number, 0 or more, is needed")
            )
            raise self.broken(needed.format(name=name, value=_shown(value)))
        self._check_most(name, value, most)
        return value

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        positive: bool = False,
        most: float = 1e300,
    ) -> float:
        """Return a number from 0 (positive: above 0) up to `most`. Raises DataError."""
        value = self._value(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or value < 0 or (positive and value == 0):
            needed = (
                _("{name} is {value}; a positive number is needed")
                if positive
                else _("{name} is {value}; a number, 0 or more, is needed")
            )
            raise self.broken(needed.format(name=name, value=_shown(value)))
        self._check_most(name, value, most)
        return float(value)

    def text(self, name: str) -> str:
        """Return a text that must be there. Raises DataError."""
        value = self._value(name, None)
        if not isinstance(value, str):
            raise self.broken(
                _("{name} is {value}; a text is needed").format(name=name, value=_shown(value))
            )
        return value

    def switch(self, name: str) -> bool | None:
        """Return true, false, or None for null or absence. Raises DataError."""
        value = self.fields.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise self.broken(
            _("{name} is {value}; true or false is needed").format(name=name, value=_shown(value))
        )

    def _check_most(self, name: str, value: float, most: float) -> None:
        if value > most:
            raise self.broken(
                _("{name} is {value}; at most {most} is possible").format(
                    name=name, value=_shown(value), most=most
                )
            )

    def _value(self, name: str, default: Any) -> Any:
        value = self.fields.get(name)
        value = default if value is None else value
        if value is None:
            raise self.broken(_("The field {name} is missing.").format(name=name))
        return value


def read_json_file(path: Path, *, fix: str) -> JsonFile:
    """Read a file that holds one JSON object.

    Raises DataError for a file that is no such thing, too large, nested deeper than MOST_DEPTH, or
    holds a number without a finite value; EnvironmentFault where the system refuses to read it.
    """
    with readable(path):
        content = read_regular(path, most_bytes=MOST_BYTES)
    try:
        fields = parsed(content)
    except ValueError as problem:
        raise JsonFile(path=path, fields={}, fix=fix).broken(
            as_sentence(reason_of(problem))
        ) from problem
    if not isinstance(fields, dict):
        raise JsonFile(path=path, fields={}, fix=fix).broken(_("The file holds no JSON object."))
    return JsonFile(path=path, fields=fields, fix=fix)


def parsed(content: bytes) -> Any:
    """Parse JSON in UTF-8; a byte order mark is stepped over. Raises ValueError, saying why."""
    try:
        value = json.loads(
            content.decode("utf-8-sig"),
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except UnicodeDecodeError as problem:
        raise ValueError(
            _("The file is not UTF-8: {detail}").format(detail=reason_of(problem))
        ) from problem
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Refuse deep nesting: whoever walks or shows the value would end in a RecursionError."""
    level = [value]
    for _depth in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(_("It is nested deeper than {most} levels.").format(most=MOST_DEPTH))


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(_("It holds a number of {count} digits.").format(count=len(digits)))
    return int(digits)


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(_("It holds the number {value}, which is not finite.").format(value=word))
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
