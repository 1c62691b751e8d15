"""What a row means: which format it is in, and which names stand for what.

The formats are LLaMA-Factory's. Names that are given replace the defaults one by one (there every
name left out becomes empty, which nobody wants). A default gives way where its name was given to
another part: no column is read twice. An empty name means that there is no such part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from danlu.data.findings import Remarks
from danlu.data.formats import alpaca, messages
from danlu.text.conversation import Conversation

Formatting = Literal["alpaca", "sharegpt", "openai"]
DEFAULT_COLUMNS: dict[Formatting, dict[str, str]] = {
    "alpaca": alpaca.DEFAULT_COLUMNS,
    "sharegpt": {"messages": "conversations", "system": "system", "tools": "tools"},
    "openai": {"messages": "messages", "system": "system", "tools": "tools"},
}
# What a format cannot do without: one of each group.
NEEDED_PARTS: dict[Formatting, tuple[tuple[str, ...], ...]] = {
    "alpaca": (("prompt", "query"), ("response",)),
    **dict.fromkeys(
        ("sharegpt", "openai"),
        (("messages",), ("role_tag",), ("content_tag",), ("user_tag",), ("assistant_tag",)),
    ),
}
DEFAULT_TAGS: dict[Formatting, dict[str, str]] = {
    "alpaca": {},
    "sharegpt": messages.SHAREGPT_TAGS,
    "openai": messages.OPENAI_TAGS,
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format with the names of the parts that its rows have."""

    formatting: Formatting
    columns: Mapping[str, str]
    tags: Mapping[str, str]

    def read_row(self, row: Any) -> tuple[Conversation, Remarks]:
        """Turn a row into a conversation, and say what that does not show. Raises BadRow."""
        if self.formatting == "alpaca":
            return alpaca.read_row(row, self.columns)
        return messages.read_row(row, self.columns, self.tags)


def format_of(
    formatting: Formatting,
    *,
    columns: Mapping[str, str | None] | None = None,
    tags: Mapping[str, str | None] | None = None,
) -> Format:
    """Return a format with the names that differ from its defaults; None or "": no such part."""
    return Format(
        formatting=formatting,
        columns=_names(DEFAULT_COLUMNS[formatting], columns or {}),
        tags=_names(DEFAULT_TAGS[formatting], tags or {}),
    )


def _names(defaults: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    taken = set(given.values())
    free = {
        part: name for part, name in defaults.items() if part not in given and name not in taken
    }
    return free | {part: name for part, name in given.items() if name}
