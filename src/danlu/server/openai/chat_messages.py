"""The messages of a chat request, as bodies and as the conversation that they are.

Text only. Knows OpenAI's message shapes; reasoning is read under both names it has in the wild.
Must not know templates or tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from danlu.server.openai.body_types import Body, Text, encodable, refused
from danlu.server.openai.tool_calls import CallBody, ToolBody
from danlu.text.conversation import Conversation, Message, Role


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


def _content(value: object) -> str | None:
    """Read a text, or text parts, which are joined by newlines as vLLM joins them."""
    if value is None:
        return None
    if isinstance(value, str):
        return encodable(value)
    if not isinstance(value, list):
        raise ValueError("It must be a text or a list of text parts.")
    return encodable("\n".join(_part(part) for part in value))


def _part(part: object) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise ValueError("Only text parts are served: no images, audio, files or addresses.")
    if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
        raise ValueError("A text part has the fields type and text, and nothing else.")
    return part["text"]


class ChatMessage(Body):
    """One message. Fields that clients send back as they got them are accepted where empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        str | None, PlainValidator(_content, json_schema_input_type=str | list[TextPart] | None)
    ] = None
    name: Text | None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None
    tool_calls: list[CallBody] | None = Field(None, max_length=128, fail_fast=True)
    tool_call_id: Text | None = None
    refusal: Annotated[Any, refused("A refusal cannot be shown to the model: use content.")] = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: Annotated[Any, refused("Only text is served.")] = None
    function_call: Annotated[Any, refused("This is outdated: use tool_calls.")] = None

    @model_validator(mode="after")
    def _fields_of_its_role(self) -> ChatMessage:
        if self.role != "assistant":
            if self.content is None:
                raise ValueError("content is missing.")
            for name in ("reasoning", "reasoning_content", "tool_calls"):
                if getattr(self, name):
                    raise ValueError(f"{name} is only for the assistant.")
        if self.role != "tool" and self.tool_call_id is not None:
            raise ValueError("tool_call_id is only for the role tool.")
        return self

    def message(self) -> Message:
        """Return the message in the form that is rendered."""
        role: Role = "system" if self.role == "developer" else self.role
        reasoning = self.reasoning if self.reasoning is not None else self.reasoning_content
        return Message(
            role=role,
            content=self.content or "",
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
