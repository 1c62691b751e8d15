"""Rows and messages as tests write them, and the conversations that they become."""

from __future__ import annotations

from typing import Any

from danlu.data.formats.format import Formatting, format_of
from danlu.text.conversation import Conversation, Message, ToolCall

FUNCTION = {"name": "weather", "description": "查询天气", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


OPENAI_CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "北京"}'},
}


CALLED = {"role": "assistant", "tool_calls": [OPENAI_CALL]}
ASKED = {"role": "user", "content": "a"}
ANSWERED = {"role": "assistant", "content": "b"}


def answered(**keys: Any) -> dict[str, Any]:
    """A question and its answer, with more keys in the answer's message."""
    return {"messages": [ASKED, {**ANSWERED, **keys}]}


def user(text: str) -> Message:
    return Message(role="user", content=text)


def bot(text: str, reasoning: str | None = None, *calls: ToolCall) -> Message:
    return Message(role="assistant", content=text, reasoning=reasoning, tool_calls=calls)


PLAIN = (user("a"), bot("b"))


def conversation(formatting: Formatting, row: Any, **names: Any) -> Conversation:
    return format_of(formatting, **names).read_row(row)[0]


def messages(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}
