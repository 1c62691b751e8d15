"""A command's settings as one typed class, and what can be read off it.

The class gives the flags, the keys of settings files, the environment variables, the help and the
JSON schema (pydantic's `model_json_schema`). Knows types and names; must not know where a value
comes from.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from danlu.language import _
from danlu.settings.ranges import ranges_of


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An option of other programs, known so that existing commands and files keep working.

    note: why it has no effect here; the option is accepted and the note is shown.
    instead: what to use here; the option is refused.
    off: values that switch the option off; they are accepted silently.
    """

    note: str = ""
    instead: str = ""
    off: tuple[str, ...] = ("false", "no", "none", "null", "0", "0.0", "")


def foreign(
    names: str, *, note: str = "", instead: str = "", off: Sequence[str] = ()
) -> dict[str, Foreign]:
    """Declare options of other programs; off: further values that switch them off."""
    option = Foreign(note=note, instead=instead, off=(*Foreign.off, *off))
    return dict.fromkeys(names.split(), option)


class Settings(BaseModel):
    """Base of every command's settings. The subclass's docstring is the command's help.

    PRESETS: defaults by the value of an option named `preset`.
    FOREIGN: options of other programs by name.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    FOREIGN: ClassVar[Mapping[str, Foreign]] = {}

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _is_in_range(cls, value: Any, info: ValidationInfo) -> Any:
        allowed = ranges_of(cls).get(info.field_name or "")
        if allowed is not None and not allowed.holds(value):
            raise ValueError(allowed.rule())
        return value


def option(
    default: Any, help: str, *, aliases: Sequence[str] = (), position: int | None = None
) -> Any:
    """Declare one setting.

    default: `...` when it must be given. help: one line.
    aliases: other names with the same meaning. position: its place among the words without a flag;
    -1: the last.
    """
    extra: dict[str, Any] = {"aliases": list(aliases)} if aliases else {}
    if position is not None:
        extra["position"] = position
    return Field(default, description=help, json_schema_extra=extra)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One setting as the readers and the help see it. types: the members of its union."""

    name: str
    help: str
    types: tuple[Any, ...]
    default: Any = None
    required: bool = False
    aliases: tuple[str, ...] = ()
    position: int | None = None

    @property
    def takes_null(self) -> bool:
        """Whether `null` is a value of its own."""
        return type(None) in self.types

    @property
    def takes_bool(self) -> bool:
        """Whether the flag alone means true."""
        return bool in self.types

    @property
    def is_switch(self) -> bool:
        """Whether it takes nothing but true, false and null."""
        return set(self.types) <= {bool, type(None)}

    @property
    def takes_many(self) -> bool:
        """Whether it is a list of values."""
        return any(get_origin(kind) is tuple for kind in self.types)


def options_of(cls: type[Settings]) -> dict[str, Option]:
    """List a class's options by name, in the order of declaration."""
    options = {}
    for name, field in cls.model_fields.items():
        declared = field.json_schema_extra
        extra: dict[str, Any] = {**declared} if isinstance(declared, dict) else {}
        options[name] = Option(
            name=name,
            help=field.description or "",
            types=_members(field.annotation),
            default=field.default,
            required=field.is_required(),
            aliases=tuple(extra.get("aliases", ())),
            position=extra.get("position"),
        )
    return options


def _members(annotation: Any) -> tuple[Any, ...]:
    """Take a union apart, without annotations; anything else is its own only member."""
    kinds = (annotation,)
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = get_args(annotation)
    return tuple(get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds)


def describe_type(option: Option) -> str:
    """Write an option's type as a placeholder: `INT`, `a|b`, `TEXT,...`, `true|false|null`.

    A null that stands for "not given" is left out.
    """
    is_absence = option.default is None
    kinds = [kind for kind in option.types if not (kind is type(None) and is_absence)]
    return "|".join(_placeholder(kind) for kind in kinds)


# What stands for a value, by its type.
PLACEHOLDERS = {int: "INT", float: "NUMBER", str: "TEXT"}


def _placeholder(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(str(value) for value in get_args(kind))
    if get_origin(kind) is tuple:
        return f"{_placeholder(get_args(kind)[0])},..."
    names = {bool: "true|false", type(None): "null"}
    return names.get(kind) or _(PLACEHOLDERS.get(kind, PLACEHOLDERS[str]))
