"""Ranges stand in the types of fields, and hold for every number of every command."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import ValidationError

from danlu.cli.main import module_of
from danlu.errors import UsageError
from danlu.program import COMMANDS
from danlu.settings.ranges import PositiveInt, Range, ShareOrCount, ranges_of
from danlu.settings.resolve import resolve
from danlu.settings.schema import Settings, describe_type, option, options_of


class Example(Settings):
    """Do an example."""

    share: Annotated[float, Range(least=0, above=True)] = option(1.0, "share")
    count: PositiveInt = option(1, "count")
    limit: PositiveInt | None = option(None, "limit")
    name: str = option("", "name")


@dataclass(frozen=True, kw_only=True)
class Plain:
    limit: PositiveInt | None = None
    every: ShareOrCount = 1


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(least=1), [1, 10**400, None], [0, -1, math.inf, math.nan]),
        (Range(least=0, above=True, greatest=1), [1e-9, 1], [0, 1.001, math.nan]),
        (Range(least=0, greatest=1, below=True), [0, 0.999], [1, -0.1, math.nan]),
        (Range(least=-2, greatest=2), [-2, 2], [-2.001, 2.001, -math.inf]),
        (Range(least=0, or_whole=True), [0, 0.5, 1, 7.0], [1.5, -0.1, math.inf, math.nan]),
    ],
)
def test_what_a_range_holds(allowed: Range, inside: list[float], outside: list[float]) -> None:
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in outside)


def test_a_range_changes_nothing_else_about_a_setting() -> None:
    assert list(ranges_of(Example)) == ["share", "count", "limit"]
    assert list(ranges_of(Plain)) == ["limit", "every"]
    kinds = [describe_type(found) for found in options_of(Example).values()]
    assert kinds == ["NUMBER", "INT", "INT", "TEXT"]
    schema = Example.model_json_schema()["properties"]["count"]
    assert schema == {"default": 1, "description": "count", "title": "Count", "type": "integer"}


def test_a_value_out_of_range_never_becomes_settings() -> None:
    with pytest.raises(ValidationError, match="it must be 1 or more"):
        Example(limit=0)


def commands() -> Iterator[tuple[str, type[Settings]]]:
    """Yield every command's settings, found where its module looks for them."""
    for command in COMMANDS:
        module = importlib.import_module(module_of(command))
        for name, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, Settings) and found is not Settings:
                yield f"{command}-{name}", found
    from danlu.dialog.settings import AnswerSettings
    from danlu.server.settings import ServeSettings
    from danlu.train.settings import TrainSettings

    yield from {"train": TrainSettings, "chat": AnswerSettings, "serve": ServeSettings}.items()


def numbers() -> Iterator[Any]:
    for command, cls in commands():
        for name, setting in options_of(cls).items():
            if {int, float} & set(setting.types):
                yield pytest.param(cls, name, id=f"{command}-{name}")


def refused(cls: type[Settings], name: str, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(cls, [f"--{name}={text}"], {})
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert name in message
    assert repr(text) in message
    assert "command line" in message
    return message


@pytest.mark.parametrize(("cls", "name"), list(numbers()))
def test_every_number_of_every_command_has_a_range(cls: type[Settings], name: str) -> None:
    allowed = ranges_of(cls)[name]
    is_whole = float not in options_of(cls)[name].types
    step = 1 if is_whole else 1e-6
    below = allowed.least if allowed.above else allowed.least - step
    assert allowed.rule() in refused(cls, name, str(below))
    if allowed.greatest < math.inf:
        above = allowed.greatest if allowed.below else allowed.greatest + step
        assert allowed.rule() in refused(cls, name, str(above))
    for text in ("nan", "inf", "-inf", "NaN"):
        refused(cls, name, text)
    default = options_of(cls)[name].default
    assert allowed.holds(default)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("--seed -1", "from 0 to"),
        ("--num_train_epochs 0", "more than 0"),
        ("--num_train_epochs -1", "more than 0"),
        ("--lora_alpha 0", "more than 0"),
        ("--adam_beta1 2", "from 0 to below 1"),
        ("--max_grad_norm -1", "0 or more"),
        ("--warmup_ratio 2", "from 0 to 1"),
        ("--val_size 1.5", "or a whole number"),
        ("--eval_steps 1.5", "or a whole number"),
        ("--logging_steps 0", "a share of more than 0"),
    ],
)
def test_numbers_that_used_to_pass(words: str, rule: str) -> None:
    from danlu.train.settings import TrainSettings

    with pytest.raises(UsageError, match=rule):
        resolve(TrainSettings, words.split(), {})
