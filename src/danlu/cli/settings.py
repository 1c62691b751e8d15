"""What every command does with its settings before it starts: help, printing, a clean exit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from danlu.settings.resolve import resolve
from danlu.settings.schema import Settings
from danlu.settings.show import help_text, settings_table

S = TypeVar("S", bound=Settings)


def read_settings(
    command: str, cls: type[S], argv: Sequence[str], *, yaml_file: bool = False
) -> S | None:
    """Return the resolved settings, or None when help or the settings were asked for and shown."""
    resolved = resolve(cls, argv, os.environ, yaml_file=yaml_file)
    if resolved.wants_help:
        print(help_text(command, cls, yaml_file=yaml_file))
        return None
    if resolved.wants_print:
        print(settings_table(resolved))
        return None
    return resolved.values
