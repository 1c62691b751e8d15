"""Prints a command's settings: its help, and with --print_settings each value with its origin."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import SecretStr

from danlu.language import _, columns
from danlu.program import as_typed
from danlu.settings.option_names import Names
from danlu.settings.resolve import Resolved, S, resolve
from danlu.settings.schema import Option, Settings, describe_type, options_of
from danlu.settings.sources import CommandLine

_HELP_COLUMN = 34


def read_settings(cls: type[S], command: str, argv: Sequence[str]) -> Resolved[S] | None:
    """Resolve a command's settings from its words and the environment.

    Options of other programs that have no effect are named on standard error. Returns None after
    printing what --help or --print_settings asked for. Raises UsageError.
    """
    asks = CommandLine(Names(cls), argv).asks
    if "help" in asks:
        print(help_text(cls, command))
        return None
    resolved = resolve(cls, argv, os.environ)
    for note in resolved.notes:
        print(as_typed(note), file=sys.stderr)
    if "print_settings" in asks:
        print(settings_text(resolved))
        return None
    return resolved


def help_text(cls: type[Settings], command: str) -> str:
    """Write the help of a command: usage, what it does, every setting."""
    names = Names(cls)
    words = [f"[{option.name.upper()}]" for option in names.placed]
    lines = [
        " ".join([_("usage: danlu {command}").format(command=command), *words])
        + _(" [FILE.yaml] [--key value ...]"),
        "",
        _((cls.__doc__ or "").strip()),
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
        f"{line:<{width}}  # {resolved.origins[name]}" for name, line in values.items()
    )


def _help_of(option: Option) -> str:
    text = _(option.help)
    if option.aliases:
        text += _("; also --{names}").format(names=", --".join(option.aliases))
    if option.required:
        return text + _(" (must be given)")
    if option.default in ("", ()):
        return text
    return text + _(" (default {value})").format(value=_show(option.default))


def _entry(left: str, right: str) -> list[str]:
    # A fixed right edge where there is no terminal keeps the help in files stable.
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 100)) - _HELP_COLUMN
    column = " " * _HELP_COLUMN
    wrapped = _wrap(right, width)
    head = f"  {left}"
    if len(head) < _HELP_COLUMN:
        first = [f"{head:<{_HELP_COLUMN}}{wrapped[0]}".rstrip()]
        wrapped = wrapped[1:]
    else:
        first = [head]
    return first + [column + line for line in wrapped]


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` columns; a Chinese character takes two.

    Breaks at spaces and after any wide character, as Chinese is set, never before its
    punctuation or behind what opens a bracket.
    """
    lines = [""]
    for piece in _UNBROKEN.findall(text):
        if columns((lines[-1] + piece).rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


_OPENS, _CLOSES = "（“《", "，。；：、！？）”》"
_UNBROKEN = re.compile(
    rf"[{_OPENS}]*(?:[\u2e80-\u9fff]|[^\s\u2e80-\u9fff{_OPENS}{_CLOSES}]+)[{_CLOSES}]*[ ]*"
    rf"|[{_OPENS}{_CLOSES}]|\s+"
)


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
