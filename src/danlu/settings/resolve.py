"""Resolves a command's values: command line before YAML before environment before default.

Knows the order of precedence and how text becomes typed values; every value keeps its origin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from danlu.errors import UsageError
from danlu.language import _
from danlu.reasons import library_reason
from danlu.settings.option_names import DEFAULT, PAGE, PRESET, Names, Refusals, shown_origin
from danlu.settings.schema import Option, Settings, describe_type
from danlu.settings.sources import (
    BOOLEANS,
    NULLS,
    CommandLine,
    Given,
    read_environment,
    read_file,
)

S = TypeVar("S", bound=Settings)
# What a value must be, by pydantic's name of the fault; of the others, pydantic's words.
VALUE_RULES = {
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "int_type": "it must be a whole number",
    "float_parsing": "it must be a number",
    "float_type": "it must be a number",
    "finite_number": "it must be a finite number",
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "string_type": "it must be text",
    "literal_error": "it must be one of those below",
}


@dataclass(frozen=True, kw_only=True)
class Resolved(Generic[S]):
    """A command's settings.

    origins: by name, `command line`, FILE:LINE, VARIABLE, `preset NAME` or `default`.
    notes: a line for each reason why options of other programs have no effect.
    """

    values: S
    origins: Mapping[str, str]
    notes: tuple[str, ...] = ()


def resolve(cls: type[S], argv: Sequence[str], environ: Mapping[str, str]) -> Resolved[S]:
    """Read a command's settings. Raises UsageError naming the key, the value and its origin;
    names that do not exist and options that would be missed are named together.
    """
    names = Names(cls)
    words = CommandLine(names, argv)
    in_file = read_file(names, words.file) if words.file else {}
    said = {**read_environment(names, environ), **_said(names, in_file), **words.values}
    return _resolved(cls, names, said)


def resolve_page(
    cls: type[S], values: Mapping[str, str], environ: Mapping[str, str]
) -> Resolved[S]:
    """Read settings that a page has sent, as texts by name; else as `resolve` does."""
    names = Names(cls)
    said = {name: Given(value=text, origin=PAGE) for name, text in values.items()}
    return _resolved(cls, names, {**read_environment(names, environ), **said})


def _resolved(cls: type[S], names: Names, said: Mapping[str, Given]) -> Resolved[S]:
    """Bring presets and what was said together, check all of it, and keep the origins."""
    given = {name: item for name, item in said.items() if name in names.options}
    others = {name: said[name] for name in said if name in cls.FOREIGN and name not in given}
    notes = _foreign_notes(cls, others, names.refusals)
    names.refusals.check()
    given = {**_preset(cls, given), **given}
    values = {name: _interpret(names.options[name], item) for name, item in given.items()}
    try:
        settings = cls.model_validate(values)
    except ValidationError as fault:
        raise _explain(fault, names, given) from fault
    origins = {name: given[name].origin if name in given else DEFAULT for name in names.options}
    return Resolved(values=settings, origins=origins, notes=notes)


def _preset(cls: type[S], given: Mapping[str, Given]) -> dict[str, Given]:
    """Return the defaults of the chosen preset; an unknown name fails when values are checked."""
    chosen = given["preset"].value if "preset" in given else None
    values = cls.PRESETS.get(chosen, {}) if isinstance(chosen, str) else {}
    return {name: Given(value=text, origin=f"{PRESET} {chosen}") for name, text in values.items()}


def _foreign_notes(
    cls: type[Settings], given: Mapping[str, Given], refusals: Refusals
) -> tuple[str, ...]:
    """Say why options of other programs have no effect; note those that would be missed."""
    names: dict[str, list[str]] = {}
    for name, item in given.items():
        foreign, shown = cls.FOREIGN[name], _shown(item.value)
        if shown.lower() in foreign.off:
            continue
        if foreign.instead:
            refusals.add(
                name,
                item.origin,
                what=_("{name} {value} is not supported").format(name=name, value=shown),
                detail=_("danlu knows this option of LLaMA-Factory"),
                fix=_(foreign.instead),
            )
        else:
            names.setdefault(foreign.note, []).append(name)
    return tuple(
        _("{names}: no effect here; {why}").format(names=", ".join(options), why=_(note))
        for note, options in names.items()
    )


def _said(names: Names, in_file: Mapping[str, Given]) -> dict[str, Given]:
    """Drop `key: null` where the key has no null: files write it for "not given"."""
    return {
        name: given
        for name, given in in_file.items()
        if given.value is not None or (name in names.options and names.options[name].takes_null)
    }


def _interpret(option: Option, given: Given) -> Any:
    """Turn text into null, booleans and lists; pydantic converts numbers and checks the rest."""
    value = given.value
    if option.takes_many and value is not None:
        texts = value.split(",") if isinstance(value, str) else value
        if option.takes_null and len(texts) == 1 and texts[0].strip().lower() in NULLS:
            return None
        return tuple(text.strip() for text in texts if text.strip())
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, str):
        if option.takes_null and value.lower() in NULLS:
            return None
        if option.takes_bool and value.lower() in BOOLEANS:
            return BOOLEANS[value.lower()]
    return value


def _missing(option: Option, names: Names) -> str:
    """Say how to give a value that must be given: with its flag, or as a word where words do."""
    if option.position is None:
        return _("Add --{name} VALUE").format(name=option.name)
    choices = {each.name: get_args(each.types[0]) for each in names.placed if each.required}
    words = [one[0] if len(one) == 1 else name.upper() for name, one in choices.items()]
    return _("Write behind the command: {words}").format(words=" ".join(words))


def _explain(fault: ValidationError, names: Names, given: Mapping[str, Given]) -> UsageError:
    first = fault.errors(include_url=False)[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "missing":
        return UsageError(
            _("The setting {name} is missing.").format(name=key),
            why=_(names.options[key].help),
            fix=_missing(names.options[key], names),
        )
    if key not in given:  # a rule about several settings, written by us as a whole sentence
        return UsageError(
            _("The settings do not fit together."),
            why=first["msg"].removeprefix("Value error, "),
            fix=_("Change one of them; add --print_settings to see every value and its origin."),
        )
    shown = _shown(given[key].value)
    return UsageError(
        _("The value {value} does not suit {name}.").format(value=repr(shown), name=key),
        why=_("It is given in: {origin}; {detail}.").format(
            origin=shown_origin(given[key].origin),
            detail=_rule(first),
        ),
        fix=_("Give {name} as {kind}: {help}").format(
            name=key, kind=describe_type(names.options[key]), help=_(names.options[key].help)
        ),
    )


def _rule(fault: ErrorDetails) -> str:
    """Say what a value must be: a rule of ours is a sentence already."""
    rule = VALUE_RULES.get(fault["type"])
    return _(rule) if rule else library_reason(fault["msg"].removeprefix("Value error, "))


def _shown(value: str | tuple[str, ...] | None) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
