"""Prints a command's settings: its help, and with --print_settings each value with its origin."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import yaml
from pydantic import SecretStr

from danlu.errors import Shown
from danlu.language import _, columns, padded, wrapped
from danlu.program import as_typed
from danlu.settings.option_names import Names, shown_origin
from danlu.settings.resolve import Resolved, S, resolve
from danlu.settings.schema import Option, Settings, describe_type, options_of
from danlu.settings.sources import CommandLine

_HELP_COLUMN = 34
# Below that the longest words would not fit.
_NARROWEST = 40


def read_settings(cls: type[S], command: str, argv: Sequence[str]) -> Resolved[S]:
    """Resolve a command's settings from its words and the environment.

    Options of other programs that have no effect are named on standard error. Raises Shown after
    printing what --help or --print_settings asked for, and UsageError.
    """
    asks = CommandLine(Names(cls), argv).asks
    if "help" in asks:
        print(help_text(cls, command))
        raise Shown
    resolved = resolve(cls, argv, os.environ)
    for note in map(as_typed, resolved.notes):
        is_seen = sys.stderr.isatty()
        width = shutil.get_terminal_size().columns
        print("\n".join(wrapped(note, width) if is_seen else [note]), file=sys.stderr)
    if "print_settings" in asks:
        print(settings_text(resolved))
        raise Shown
    return resolved


def help_text(cls: type[Settings], command: str) -> str:
    """Write the help of a command: usage, what it does, every setting."""
    names = Names(cls)
    words = [f"[{option.name}]" for option in names.placed]
    usage = " ".join([_("usage: danlu {command}").format(command=command), *words])
    usage += _(" [FILE.yaml] [--key value ...]")
    lines = [
        *wrapped(usage, help_width(), " " * 4),
        "",
        *wrapped(_((cls.__doc__ or "").strip()), help_width()),
        "",
    ]
    for option in names.options.values():
        lines += _entry(f"--{option.name} {describe_type(option)}", _help_of(option))
    lines += _entry("--print_settings", _("print every value and where it comes from, then stop"))
    lines += _entry("--help", _("print this text, then stop"))
    return "\n".join(lines)


def settings_text(resolved: Resolved[S]) -> str:
    """Write every setting as YAML with its origin as a comment, one a line, aligned."""
    options = options_of(type(resolved.values))
    values = {name: f"{name}: {_show(getattr(resolved.values, name))}" for name in options}
    width = min(48, max(map(len, values.values()), default=0))
    return "\n".join(
        f"{line:<{width}}  # {shown_origin(resolved.origins[name])}"
        for name, line in values.items()
    )


def _help_of(option: Option) -> str:
    text = _(option.help)
    if option.aliases:
        text += _("; also --{names}").format(names=", --".join(option.aliases))
    if option.required:
        return text + _(" (must be given)")
    if option.default in ("", (), None):
        return text
    return text + _(" (default {value})").format(value=_show(option.default))


def _entry(left: str, right: str) -> list[str]:
    width = help_width()
    column = min(_HELP_COLUMN, width // 2)
    text = [" " * column + line for line in wrapped(right, width - column)]
    head = f"  {left}"
    if columns(head) < column:
        return [padded(head, column) + text[0].lstrip(), *text[1:]]
    return [*_choices(head, width), *text]


def help_width() -> int:
    """Count the columns of help: of the terminal, behind a pager too; else 100."""
    given = shutil.get_terminal_size((0, 0)).columns
    for stream in (sys.stderr, sys.stdin) if not given else ():
        with suppress(OSError, ValueError, AttributeError):
            given = given or os.get_terminal_size(stream.fileno()).columns
    return max(_NARROWEST, min(given or 100, 100))


def _choices(head: str, width: int) -> list[str]:
    """Break a long list of choices between two of them."""
    lines = [""]
    for choice in re.findall(r"[^|]+\|?", head):
        if columns(lines[-1] + choice) > width:
            lines.append(" " * 6)
        lines[-1] += choice
    return lines


def _show(value: Any) -> str:
    """Write a value as YAML on one line; a secret as stars."""
    if isinstance(value, SecretStr):
        value = str(value)
    items = list(value) if isinstance(value, tuple) else value
    texts = items if isinstance(items, list) else [items]
    plain = all(not isinstance(text, str) or text.isprintable() for text in texts)
    text: str = yaml.safe_dump(
        items,
        allow_unicode=True,
        width=float("inf"),
        default_flow_style=True,
        default_style=None if plain else '"',
    )
    return text.removesuffix("\n").removesuffix("\n...")
