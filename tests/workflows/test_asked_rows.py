"""Rows as users have them become the question that they ask, without the answer at their end."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.data.findings import BadRow
from danlu.workflows.asked_rows import question_of_row

HELLO = [("user", "hello")]
CHAT = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]


def openai(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in pairs]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "hello"}, HELLO),
        ({"id": 7, "prompt": "hello", "response": "right"}, HELLO),
        ({"prompt": '{"a": 1}'}, [("user", '{"a": 1}')]),
        ({"question": "hello", "answer": "right"}, HELLO),
        ({"问题": "hello"}, HELLO),
        ({"instruction": "Add", "input": "1 2"}, [("user", "Add\n1 2")]),
        ({"instruction": "hello", "input": "", "output": "right"}, HELLO),
        ({"input": "hello"}, HELLO),
        ({"Question": "hello", "Answer": "right"}, HELLO),
        ({"Instruction": "Add", "Input": "1 2", "Output": "3"}, [("user", "Add\n1 2")]),
        (
            {"instruction": "c", "system": "s", "history": [["a", "b"]]},
            CHAT,
        ),
        ({"messages": openai(CHAT)}, CHAT),
        ({"messages": openai([*CHAT, ("assistant", "right")])}, CHAT),
        ({"messages": openai([*CHAT, ("assistant", "")])}, CHAT),
        ({"prompt": openai(CHAT), "chosen": "x", "rejected": "y"}, CHAT),
        ({"conversations": [{"from": "human", "value": "hello"}]}, HELLO),
        (
            {"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "r"}]},
            HELLO,
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_every_form_of_a_question(row: dict[str, Any], asked: list[tuple[str, str]]) -> None:
    messages = question_of_row(row).messages
    assert [(message.role, message.content) for message in messages] == asked


def test_the_commands_system_prompt_stands_where_a_row_has_none() -> None:
    assert question_of_row({"prompt": "hello"}, system="S").messages[0].content == "S"
    assert question_of_row({"messages": openai(CHAT)}, system="S").messages[0].content == "s"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "hello"}, "text"),
        ("hello", "object"),
        ({"prompt": " "}, "empty"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "hello", "images": ["a.png"]}, "images"),
        ({"messages": openai([("user", "a"), ("user", "b")])}, "Message 2"),
        ({"messages": openai([("assistant", "b")])}, "first message"),
    ],
    ids=str,
)
def test_what_asks_nothing_says_why(row: Any, said: str) -> None:
    with pytest.raises(BadRow) as caught:
        question_of_row(row)
    assert said in caught.value.what
