"""What tools write beside the text: read, refused, or named as what is not read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from danlu.data.formats.format import Formatting, format_of
from danlu.text.conversation import ToolCall
from tests.helpers.rows import (
    ASKED,
    FUNCTION,
    OPENAI_CALL,
    PLAIN,
    answered,
    bot,
    conversation,
    user,
)

NOT_LEARNED = (0, 0.0, "0", "0.0", False, "false", " False ", "no")


@pytest.mark.parametrize("key", ["weight", "loss", "loss_scale", "train", "training"])
@pytest.mark.parametrize("value", [*NOT_LEARNED, 1, 1.0, "1", True, "true", None, ""])
@pytest.mark.parametrize("formatting", ["openai", "sharegpt"])
def test_marks_say_which_answers_are_learned(formatting: Formatting, key: str, value: Any) -> None:
    names = ("role", "content", "user", "assistant", "messages")
    if formatting == "sharegpt":
        names = ("from", "value", "human", "gpt", "conversations")
    role, content, asks, answers, column = names
    listed = [
        {role: asks, content: "Which colour is the roof?"},
        {role: answers, content: "Blue, I guess.", key: value},
        {role: asks, content: "Sure?"},
        {role: answers, content: "No: red.", key: 1},
    ]
    said = conversation(formatting, {column: listed}).messages
    assert [message.is_learned for message in said] == [True, value not in NOT_LEARNED, True, True]


def test_a_call_may_be_marked_too() -> None:
    listed = [
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": json.dumps(FUNCTION | {"arguments": {}}), "loss": False},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "b", "thinking": "hm"},
    ]
    _asked, call, _result, said = conversation("sharegpt", {"conversations": listed}).messages
    assert call.tool_calls
    assert not call.is_learned
    assert said == bot("b", "hm")


@pytest.mark.parametrize(
    "key", ["thinking", "thought", "reasoning", "reasoning_content", "reasoning_details"]
)
def test_a_thought_is_read_under_every_name(key: str) -> None:
    row = {"messages": [ASKED, {"role": "assistant", "content": "7", key: "3 and 4 make 7."}]}
    assert conversation("openai", row).messages[-1] == bot("7", "3 and 4 make 7.")


def test_details_of_a_thought_that_is_there_as_text_are_no_second_one() -> None:
    row = answered(reasoning="r", reasoning_details=[{"text": "r"}], thinking="r")
    assert conversation("openai", row).messages[-1] == bot("b", "r")


def test_a_call_without_arguments() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": ""}}
    row = {"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}]}
    (got,) = conversation("openai", row).messages[-1].tool_calls
    assert got == ToolCall(name="f", arguments={})


def test_classes_named_label_are_no_judgement() -> None:
    row = answered() | {"label": 1}
    assert conversation("openai", row).messages == PLAIN
    assert format_of("openai").read_row(row)[1].unread == ("label",)
    row = {"text": "a", "label": "True"}
    columns = {"prompt": "text", "response": "label"}
    assert conversation("alpaca", row, columns=columns).messages == (user("a"), bot("True"))


def test_what_is_not_read_is_named() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "a", "mood": "x", "thinking": "y", "name": "Ann"},
            {
                "role": "assistant",
                "tool_calls": [{**OPENAI_CALL, "note": 1, "index": 0}],
                "prefix": True,
                "loss": 1,
            },
        ],
        "id": 3,
        "extra": 0,
        "nothing": None,
        "empty": "",
    }
    _conversation, got = format_of("openai").read_row(row)
    assert got.unread == (
        *("extra", "messages[].mood", "messages[].thinking", "messages[].prefix"),
        "messages[].tool_calls[].note",
    )
    named = format_of("alpaca", columns={"prompt": "input", "response": "a"})
    _conversation, got = named.read_row({"input": "a", "a": "b", "output": "c"})
    assert got.unread == ("output",)
