"""Ranges stand in the types of fields; one check reads them all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import pytest

from danlu.errors import UsageError
from danlu.settings.ranges import PositiveInt, Range, check_ranges, ranges_of
from danlu.settings.schema import Settings, describe_type, option, options_of


class Example(Settings):
    """Do an example."""

    share: Annotated[float, Range(least=0, above=True, example="0.5")] = option(1.0, "share")
    count: PositiveInt = option(1, "count")
    limit: PositiveInt | None = option(None, "limit")
    name: str = option("", "name")


@dataclass(frozen=True, kw_only=True)
class Plain:
    limit: PositiveInt | None = None


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(least=1), [1, 10**400, None], [0, -1, math.inf, math.nan]),
        (Range(least=0, above=True, greatest=1), [1e-9, 1], [0, 1.001, math.nan]),
        (Range(least=-2, greatest=2), [-2, 2], [-2.001, 2.001, -math.inf]),
    ],
)
def test_what_a_range_holds(allowed: Range, inside: list[float], outside: list[float]) -> None:
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in outside)


def test_a_range_changes_nothing_else_about_a_setting() -> None:
    assert list(ranges_of(Example)) == ["share", "count", "limit"]
    assert ranges_of(Plain) == {"limit": Range(least=1)}
    kinds = [describe_type(found) for found in options_of(Example).values()]
    assert kinds == ["NUMBER", "INT", "INT|null", "TEXT"]
    schema = Example.model_json_schema()["properties"]["count"]
    assert schema == {"default": 1, "description": "count", "title": "Count", "type": "integer"}


@pytest.mark.parametrize(
    ("values", "what", "fix"),
    [
        ({"share": 0.0, "count": 0}, "--share must be more than 0.", "--share 0.5"),
        ({"count": -3, "limit": 0}, "--count must be 1 or more.", "--count 1"),
        ({"limit": 0}, "--limit must be 1 or more.", "--limit 1"),
    ],
)
def test_the_first_setting_out_of_range_is_refused(
    values: dict[str, float], what: str, fix: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_ranges(Example.model_validate(values))
    assert (caught.value.what, caught.value.fix) == (what, fix)


def test_other_settings_are_left_alone() -> None:
    check_ranges(Example(count=0), ["limit"])
    check_ranges(Example())
