"""Settings as text: the help of a command, and its resolved values with their origins."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from danlu.language import _
from danlu.settings.resolve import Resolved
from danlu.settings.schema import Settings, positionals, type_name


def help_text(command: str, cls: type[Settings], *, yaml_file: bool = False) -> str:
    """Return the help of a command: usage, description, one entry per setting."""
    words = [f"[{field.upper()}]" for field in positionals(cls)]
    if yaml_file:
        words.insert(0, "[FILE.yaml key=value ...]")
    description = (cls.__doc__ or "").strip().splitlines()[0]
    lines = [f"usage: danlu {command} {' '.join([*words, '[--setting value ...]'])}"]
    lines += ["", _(description), "", _("settings:")]
    for field, info in cls.model_fields.items():
        default = "" if info.default in (None, "") else f" [{_shown(info.default)}]"
        lines.append(f"  --{field} {type_name(info)}{default}")
        lines += textwrap.wrap(
            _(info.description or ""), 92, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    lines += ["", "  --print_settings", f"      {_('show every value and where it comes from')}"]
    return "\n".join(lines)


def settings_table(resolved: Resolved[Any]) -> str:
    """Return each setting, its value and where it came from, aligned."""
    fields = resolved.values.model_dump()
    width = max(len(field) for field in fields)
    shown = {field: _shown(value) for field, value in fields.items()}
    value_width = max(len(value) for value in shown.values())
    return "\n".join(
        f"{field:<{width}}  {shown[field]:<{value_width}}  {resolved.origins[field]}"
        for field in fields
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
