"""A corrected answer as a row to train on, and how so few rows are learned.

A row holds the whole conversation in OpenAI's form; only the corrected answer is learned of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.hub.names import STARTER
from danlu.text.conversation import Conversation, message_fields

# So few rows are learned only if they are seen often, and at a higher rate than many.
_RECIPE = {"learning_rate": "3e-4", "num_train_epochs": "30"}
_STARTERS_RECIPE = {"learning_rate": "2e-3", "num_train_epochs": "100"}  # it is tiny


def recipe(base: str) -> Mapping[str, str]:
    """Return the settings of a training that learns taught rows on a model, by their names."""
    return _STARTERS_RECIPE if base == STARTER else _RECIPE


def taught_row(conversation: Conversation) -> dict[str, Any]:
    """Write a conversation that ends with a corrected answer as a row."""
    messages = conversation.messages
    fields: list[dict[str, Any]] = [
        # Earlier answers were not corrected: they are what this one follows, and are not learned.
        {**message_fields(message), **({"weight": 0} if message.role == "assistant" else {})}
        for message in messages[:-1]
    ]
    tools = {"tools": list(conversation.tools)} if conversation.tools else {}
    return {"messages": [*fields, message_fields(messages[-1])], **tools}
