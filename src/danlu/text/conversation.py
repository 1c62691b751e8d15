"""A conversation: the one internal form between data files, chat and the renderer.

Knows nothing of templates or tokens. Messages follow OpenAI's roles; an assistant message carries
its reasoning, its visible content and its tool calls apart from each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One function call: `arguments` is a JSON object, or the JSON text as it stood in the data."""

    name: str
    arguments: Mapping[str, Any] | str


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. `reasoning`, `tool_calls` and `is_learned` belong to assistant messages only.

    is_learned: training learns to write it; otherwise it is only what later answers follow.
    """

    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    is_learned: bool = True


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages in order and the tools (JSON schemas in OpenAI's form) the assistant may call."""

    messages: tuple[Message, ...]
    tools: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def framed(
        cls, messages: Iterable[Message], *, system: str, tools: Sequence[Mapping[str, Any]]
    ) -> Conversation:
        """Return messages behind a system prompt, which may be empty, and beside tools."""
        first = (Message(role="system", content=system),) if system else ()
        return cls(messages=(*first, *messages), tools=tuple(tools))


def message_fields(message: Message) -> dict[str, Any]:
    """Write a message in OpenAI's form, with its thought and its calls where it has some."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        fields["reasoning_content"] = message.reasoning
    if message.tool_calls:
        fields["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return fields
