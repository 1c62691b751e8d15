"""What a row means: which format it is in, and which names stand for what.

The formats are LLaMA-Factory's. Names that are given replace the defaults one by one (there every
name left out becomes empty, which nobody wants).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from danlu.data.formats import alpaca, messages
from danlu.text.conversation import Conversation

Formatting = Literal["alpaca", "sharegpt", "openai"]
DEFAULT_COLUMNS: dict[Formatting, dict[str, str]] = {
    "alpaca": alpaca.DEFAULT_COLUMNS,
    "sharegpt": {"messages": "conversations", "system": "system", "tools": "tools"},
    "openai": {"messages": "messages", "system": "system", "tools": "tools"},
}
DEFAULT_TAGS: dict[Formatting, dict[str, str]] = {
    "alpaca": {},
    "sharegpt": messages.SHAREGPT_TAGS,
    "openai": messages.OPENAI_TAGS,
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format with all its names."""

    formatting: Formatting
    columns: Mapping[str, str]
    tags: Mapping[str, str]

    def conversation_of(self, row: Any) -> Conversation:
        """Turn a row into a conversation. Raises BadRow."""
        if self.formatting == "alpaca":
            return alpaca.conversation_of(row, self.columns)
        return messages.conversation_of(row, self.columns, self.tags)


def format_of(
    formatting: Formatting,
    *,
    columns: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Format:
    """Return a format with the names that differ from its defaults."""
    return Format(
        formatting=formatting,
        columns={**DEFAULT_COLUMNS[formatting], **(columns or {})},
        tags={**DEFAULT_TAGS[formatting], **(tags or {})},
    )
