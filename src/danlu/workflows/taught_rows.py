"""A corrected answer as a row to train on, and how so few rows are learned.

A row holds the whole conversation in OpenAI's form; only the corrected answer is learned of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from danlu.hub.names import STARTER
from danlu.text.conversation import Message, message_fields

# So few rows are learned only if they are seen often, and at a higher rate than many.
_RECIPE = {"learning_rate": "3e-4", "num_train_epochs": "30"}
_STARTERS_RECIPE = {"learning_rate": "2e-3", "num_train_epochs": "100"}  # it is tiny


def recipe(base: str) -> Mapping[str, str]:
    """Return the settings of a training that learns taught rows on a model, by their names."""
    return _STARTERS_RECIPE if base == STARTER else _RECIPE


def taught_row(messages: Sequence[Message]) -> dict[str, Any]:
    """Write a conversation that ends with a corrected answer as a row."""
    fields: list[dict[str, Any]] = [
        # Earlier answers were not corrected: they are what this one follows, and are not learned.
        {**_fields(message), **({"weight": 0} if message.role == "assistant" else {})}
        for message in messages[:-1]
    ]
    return {"messages": [*fields, _fields(messages[-1])]}


def _fields(message: Message) -> dict[str, Any]:
    calls = [
        {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    return {**message_fields(message), **({"tool_calls": calls} if calls else {})}
