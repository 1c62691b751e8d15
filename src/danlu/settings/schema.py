"""One typed class per command; flags, YAML keys, environment and help all come from it.

The class lives beside its command. This room knows types and where values come from, never what
they mean.
"""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo


class Settings(BaseModel):
    """Base of every command's settings. The docstring's first line is the command's description."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def option(
    default: Any, help: str, *, aliases: tuple[str, ...] = (), positional: bool = False
) -> Any:
    """Declare a setting: its default, one line of help, other names, whether it may stand alone."""
    extra: JsonDict = {"aliases": list(aliases), "positional": positional}
    return Field(default=default, description=help, json_schema_extra=extra)


def names(cls: type[Settings]) -> dict[str, str]:
    """Map every accepted name, aliases included, to its field."""
    table: dict[str, str] = {}
    for field, info in cls.model_fields.items():
        table[field] = field
        table |= dict.fromkeys(_aliases(info), field)
    return table


def positionals(cls: type[Settings]) -> list[str]:
    """List the fields that may be given without a name, in order."""
    return [f for f, info in cls.model_fields.items() if _extra(info).get("positional")]


def is_boolean(info: FieldInfo) -> bool:
    """Tell whether a flag may stand without a value."""
    return bool in _plain_types(info.annotation)


def allows_none(info: FieldInfo) -> bool:
    """Tell whether `null` is a value of this field."""
    return type(None) in _plain_types(info.annotation)


def type_name(info: FieldInfo) -> str:
    """Describe a field's type for help and errors: `number`, `true|false`, or its choices."""
    words = {str: "text", int: "whole number", float: "number", bool: "true|false"}
    parts: list[str] = []
    for kind in _plain_types(info.annotation):
        if get_origin(kind) is Literal:
            parts += [str(choice) for choice in get_args(kind)]
        else:
            parts.append("null" if kind is type(None) else words.get(kind, "text"))
    return "|".join(parts)


def _aliases(info: FieldInfo) -> list[str]:
    aliases = _extra(info).get("aliases", [])
    return aliases if isinstance(aliases, list) else []


def _extra(info: FieldInfo) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _plain_types(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)
