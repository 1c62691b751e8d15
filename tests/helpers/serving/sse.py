"""Reads server-sent events as the standard says, and puts streamed chunks together again."""

from __future__ import annotations

import json
from typing import Any

DONE = "[DONE]"


def events_of(body: str) -> list[Any]:
    """The data of all events: JSON, or [DONE]. Comments and nothing else may stand between."""
    found = []
    for block in body.split("\n\n")[:-1]:
        for line in block.split("\n"):
            if line.startswith(":"):
                continue
            assert line.startswith("data: "), line
            data = line.removeprefix("data: ")
            found.append(data if data == DONE else json.loads(data))
    return found


def whole_chat(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The messages that chunks make, by their index: what a client ends up with."""
    messages: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            message = messages.setdefault(choice["index"], {"content": "", "tool_calls": []})
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            for name in ("reasoning", "reasoning_content"):
                if name in delta:
                    message[name] = message.get(name, "") + delta[name]
            message["tool_calls"] += delta.get("tool_calls", [])
            if choice["finish_reason"] is not None:
                message["finish_reason"] = choice["finish_reason"]
    return messages
