"""The messages of a chat request, as bodies and as the conversation that they are.

Text only. Knows OpenAI's message shapes; reasoning is read under both names it has in the wild.
Must not know templates or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from danlu.language import _
from danlu.server.openai.body_types import Body, Text, encodable
from danlu.server.openai.foreign_fields import MESSAGE_FIELDS
from danlu.server.openai.tool_calls import CallBody, ToolBody
from danlu.text.conversation import Conversation, Message, Role


class TextPart(Body):
    """A piece of a message."""

    ANNOTATED = True

    type: Literal["text", "input_text", "output_text"]
    text: Text


def _parts(value: object, info: ValidationInfo) -> object:
    """Read a text, a list of texts or parts; a tool may also answer with JSON, or with nothing."""
    if info.data.get("role") == "tool" and not isinstance(value, str) and not _are_parts(value):
        value = "" if value is None else json.dumps(value, ensure_ascii=False)
    if value is None:
        return None
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError(_("It must be a text or a list of text parts."))
    if not all(isinstance(item, str) or _is_text_part(item) for item in items):
        raise ValueError(_("Only text parts are served: no images, audio, files or addresses."))
    return [
        {"type": "text", "text": encodable(item)} if isinstance(item, str) else item
        for item in items
    ]


def _are_parts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, str) or (isinstance(item, dict) and "type" in item) for item in value
    )


def _is_text_part(item: object) -> bool:
    return isinstance(item, dict) and item.get("type") in ("text", "input_text", "output_text")


class ChatMessage(Body):
    """One message, as clients write it and as they send back what they got."""

    FOREIGN = MESSAGE_FIELDS
    ANNOTATED = True

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        list[TextPart] | None,
        BeforeValidator(_parts, json_schema_input_type=str | list[TextPart] | None),
    ] = Field(None, validate_default=True)
    name: Text | None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None
    tool_calls: list[CallBody] | None = Field(None, max_length=128, fail_fast=True)
    tool_call_id: Text | None = None

    @model_validator(mode="after")
    def _fields_of_its_role(self) -> ChatMessage:
        if self.role != "assistant":
            if self.content is None:
                raise ValueError(_("content is missing."))
            for name in ("reasoning", "reasoning_content", "tool_calls"):
                if getattr(self, name):
                    raise ValueError(_("{name} is only for the assistant.").format(name=name))
        return self

    def ignored(self) -> list[str]:
        """List what was given and the model is not shown."""
        hidden = () if self.role == "tool" else ("name", "tool_call_id")
        return [*super().ignored(), *(name for name in hidden if getattr(self, name))]

    def message(self) -> Message:
        """Return the message in the form that is rendered."""
        role: Role = "system" if self.role == "developer" else self.role
        reasoning = self.reasoning if self.reasoning is not None else self.reasoning_content
        return Message(
            role=role,
            # Parts are joined by newlines, as vLLM joins them.
            content="\n".join(part.text for part in self.content or ()),
            reasoning=reasoning if role == "assistant" else None,
            tool_calls=tuple(call.call() for call in self.tool_calls or ()),
        )


def conversation_of(messages: Sequence[ChatMessage], tools: Sequence[ToolBody]) -> Conversation:
    """Make the conversation that the model is shown."""
    return Conversation(
        messages=tuple(message.message() for message in _results_in_order(messages)),
        tools=tuple(tool.shown() for tool in tools),
    )


def _results_in_order(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """Put the results of several calls in the order of the calls.

    Qwen3's format has no ids for calls, so the model can tell results apart by their order only.
    """
    ids: list[str | None] = []
    for is_result, group in groupby(messages, key=lambda message: message.role == "tool"):
        part = list(group)
        if is_result:
            part.sort(key=lambda m: ids.index(m.tool_call_id) if m.tool_call_id in ids else 128)
        ids = [call.id for call in part[-1].tool_calls or ()]
        yield from part
