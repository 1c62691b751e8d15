"""Rows that cannot be used: what is wrong, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.data.findings import BadRow
from danlu.data.formats.format import Formatting
from tests.helpers.rows import (
    ANSWERED,
    ASKED,
    CALLED,
    FUNCTION,
    answered,
    conversation,
    messages,
)

# format, row, kind of the finding, a piece of what is wrong, a piece of the fix
BAD_ROWS: list[tuple[Formatting, Any, str, str, str]] = [
    ("alpaca", [], "not_an_object", "not an object", "instruction"),
    ("alpaca", {"instruction": "a", "output": " "}, "empty_answer", "empty", "output"),
    (
        "alpaca",
        {"instruction": "a", "output": "<think>\nr\n</think>\n\n"},
        "empty_answer",
        "behind its reasoning",
        "output",
    ),
    ("alpaca", {"instruction": "a", "output": None}, "empty_answer", "empty", "output"),
    ("alpaca", {"instruction": "", "output": "b"}, "empty_question", "empty", "instruction"),
    ("alpaca", {"instruction": "a"}, "missing_column", "no output; it has instruction", "columns"),
    ("alpaca", {"instruction": 1, "output": "b"}, "not_text", "instruction", "quotation"),
    ("alpaca", {"instruction": "\ud83d", "output": "b"}, "lone_surrogate", "half", "whole"),
    ("alpaca", {"instruction": "a", "output": "b", "images": ["x"]}, "media", "images", "Remove"),
    ("alpaca", {"instruction": "a", "chosen": "b"}, "preference", "chosen", "answer"),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["q"]]},
        "wrong_history",
        "pairs",
        "[question, answer]",
    ),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["q", ""]]},
        "empty_answer",
        "empty",
        "history",
    ),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": "[["},
        "broken_field",
        "JSON",
        "list",
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}
                | {"tool_calls": "[["},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "b"},
            ]
        },
        "broken_field",
        "tool_calls of message 2 is not JSON",
        "list",
    ),
    ("alpaca", {"instruction": "a", "output": "b", "tools": [{}]}, "wrong_tools", "names", "name"),
    ("openai", {}, "missing_column", "no messages", "columns"),
    ("openai", {"messages": "hello"}, "broken_field", "not JSON", "list"),
    ("openai", {"messages": []}, "no_messages", "not a list", '"role": "user"'),
    ("openai", {"messages": [{"content": "a"}]}, "no_role", "no role; it has content", "role"),
    ("openai", messages(("user", "a"), ("gpt", "b")), "unknown_role", "role gpt", "assistant"),
    ("openai", messages(("usr", "a")), "unknown_role", "role usr", "Write user"),
    ("openai", messages(("user", "a")), "no_answer", "last message, 1 (user)", "Add the answer"),
    (
        "openai",
        messages(("user", "a"), ("assistant", "b"), ("user", "c")),
        "no_answer",
        "last message, 3 (user)",
        "remove",
    ),
    ("openai", messages(("assistant", "b")), "wrong_order", "first message", "question"),
    (
        "openai",
        messages(("user", "a"), ("user", "a"), ("assistant", "b")),
        "wrong_order",
        "Message 2 (user) follows message 1 (user)",
        "Join",
    ),
    (
        "openai",
        messages(("user", "a"), ("system", "s"), ("assistant", "b")),
        "wrong_order",
        "Message 2 (system)",
        "first message",
    ),
    (
        "openai",
        messages(("user", "a"), ("tool", "1"), ("assistant", "b")),
        "wrong_order",
        "Message 2 (tool)",
        "call",
    ),
    ("openai", {"messages": [ASKED, CALLED, ANSWERED]}, "wrong_order", "Message 3", "result"),
    ("openai", messages(("user", " "), ("assistant", "b")), "empty_question", "1 is empty", "Fill"),
    ("openai", messages(("user", "a"), ("assistant", "")), "empty_answer", "empty", "message 2"),
    (
        "openai",
        {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
        "wrong_call",
        "tool_calls of message 2",
        "arguments",
    ),
    (
        "openai",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWERED]},
        "media",
        "content of message 1",
        "text only",
    ),
    ("openai", answered(weight=0.5), "weight", "2 has weight 0.5", "1 or 0"),
    ("openai", answered(loss=[]) | answered(loss="some"), "weight", "loss some", "1 or 0"),
    ("openai", answered(loss=True, train=0), "weight", "contradict", "all but one"),
    ("openai", answered(weight=0), "nothing_to_learn", "No answer", "mark"),
    (
        "openai",
        answered(reasoning_details=[{"text": "r"}]),
        "not_text",
        "reasoning_details",
        "as text",
    ),
    (
        "openai",
        answered(thinking="r", reasoning="s"),
        "two_thoughts",
        "thinking, reasoning",
        "but one",
    ),
    ("openai", answered(thought="r", content="s</think>b"), "two_thoughts", "twice", "Remove"),
    (
        "openai",
        answered(content=[{"type": "thinking", "thinking": "r"}, {"type": "text", "text": "b"}]),
        "thought_part",
        "content of message 2 has a thought",
        "reasoning_content",
    ),
    (
        "openai",
        answered(function_call={"name": "f"}),
        "renamed_key",
        "2 has function_call",
        "tool_calls",
    ),
    ("openai", answered(refusal="No."), "renamed_key", "2 has refusal", "content"),
    ("openai", answered(audio={"id": 1}), "media", "2 has audio", "Remove"),
    (
        "openai",
        {"messages": [{"role": "user", "value": "a"}, ANSWERED]},
        "other_content",
        "1 has value, not content",
        "content_tag",
    ),
    ("openai", answered() | {"label": False}, "preference", "label", "without label"),
    ("openai", answered() | {"label": "True"}, "preference", "label", "without label"),
    (
        "openai",
        answered() | {"rejected_response": "c"},
        "preference",
        "rejected_response",
        "answer",
    ),
    ("openai", answered() | {"functions": [FUNCTION]}, "renamed_key", "functions", "tools"),
    (
        "openai",
        answered() | {"chat_template_kwargs": {"enable_thinking": False}},
        "run_wide",
        "chat_template_kwargs",
        "--enable_thinking",
    ),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "kto_tag": True},
        "preference",
        "kto_tag",
        "good",
    ),
    (
        "alpaca",
        {"prompt": [ASKED], "output": "b", "instruction": [ASKED]},
        "not_text",
        "list of messages",
        "messages",
    ),
    (
        "alpaca",
        {"instruction": "a", "output": ["b", "c"]},
        "not_text",
        "output is a list",
        "one text",
    ),
    ("alpaca", {"instruction": "a", "output": {"text": "b"}}, "not_text", "an object", "its text"),
    ("alpaca", [{"from": "human", "value": "a"}], "not_an_object", "object", '"conversations"'),
    ("alpaca", [ASKED], "not_an_object", "object", '"messages"'),
    (
        "openai",
        {"messages": [ASKED, {**ANSWERED, "reasoning": "r", "content": "<think>r</think>b"}]},
        "two_thoughts",
        "twice",
        "Remove one",
    ),
    (
        "openai",
        {**messages(("system", "s"), ("user", "a"), ("assistant", "b")), "system": "t"},
        "two_systems",
        "two system",
        "Remove one",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "unknown_role",
        "Message 1 has the role user",
        "Write human",
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": "f(x)"},
            ]
        },
        "broken_field",
        "value of message 2",
        "JSON",
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {
                    "from": "function_call",
                    "value": '{"name": "f", "arguments": {}}',
                    "tool_calls": [{"name": "g", "arguments": {}}],
                },
            ]
        },
        "two_calls",
        "calls twice, as value",
        "Keep one",
    ),
    (
        "openai",
        {"messages": [ASKED, {**ANSWERED, "trainable": False}]},
        "renamed_key",
        "trainable",
        "train",
    ),
    (
        "openai",
        {"messages": [ASKED, {**ANSWERED, "train_detail": [{"train": False}]}]},
        "renamed_key",
        "train_detail",
        "train",
    ),
    ("openai", {"messages": [["user", "a"], ["assistant", "b"]]}, "no_role", "not an obj", "Write"),
    (
        "openai",
        {"messages": [{"role": "user", "parts": [{"text": "a"}]}, ANSWERED]},
        "other_content",
        "has parts, not content",
        "Rename it",
    ),
    (
        "openai",
        {
            "messages": [
                ASKED,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "f", "arguments": "{bad"}}],
                },
            ]
        },
        "broken_field",
        "arguments in tool_calls of message 2 is not JSON",
        "object",
    ),
    (
        "alpaca",
        {"instruction ": "a", "output": "b"},
        "missing_column",
        'it has "instruction ", output',
        "Rename",
    ),
    (
        "alpaca",
        {"\u200binstruction": "a", "output": "b"},
        "missing_column",
        '"\\u200binstruction"',
        "Rename",
    ),
    ("alpaca", {"messages": [ASKED, ANSWERED]}, "missing_column", "messages", "file of their own"),
    ("openai", {"instruction": "a", "output": "b"}, "missing_column", "output", "file of their"),
    ("alpaca", {"instruction": "a"}, "missing_column", "no output", "Rename its fields"),
]


@pytest.mark.parametrize(
    ("formatting", "row", "kind", "what", "fix"),
    [pytest.param(*case, id=f"{case[0]}-{case[2]}-{case[3]}") for case in BAD_ROWS],
)
def test_a_row_that_cannot_be_used(
    formatting: Formatting, row: Any, kind: str, what: str, fix: str
) -> None:
    with pytest.raises(BadRow) as caught:
        conversation(formatting, row)
    assert caught.value.kind == kind
    assert what in caught.value.what
    assert fix in caught.value.fix
