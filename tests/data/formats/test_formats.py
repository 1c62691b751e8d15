"""The same conversations come out of every format and every file type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.data.datasets import DataSet, Row, find_datasets
from danlu.data.findings import Finding
from danlu.text.conversation import Conversation, Message, ToolCall
from tests.helpers.data_files import FILE_TYPES
from tests.helpers.rows import FUNCTION, OPENAI_CALL, PLAIN, TOOL, bot, conversation, messages, user

TALK = (
    Message(role="system", content="Be kind.\nAlways."),
    user('Hi, "you"'),
    bot("Hello\n你好"),
    user("What is\n1+1?"),
    bot("Two, 2", "add"),
)
CALL = ToolCall(name="weather", arguments='{"city": "北京"}')
ASKS = (
    user("Weather?"),
    bot("", "look it up", CALL),
    Message(role="tool", content="sunny"),
    bot("It is sunny."),
)
ALPACA_ROWS = [
    {
        "instruction": "What is",
        "input": "1+1?",
        "output": "<think>\nadd\n</think>\n\nTwo, 2",
        "system": "Be kind.\nAlways.",
        "history": [['Hi, "you"', "Hello\n你好"]],
    },
    {"instruction": "a", "input": "", "output": "b", "system": "", "history": []},
]
SHAREGPT_ROWS = [
    {
        "conversations": [
            {"from": "system", "value": "Be kind.\nAlways."},
            {"from": "human", "value": 'Hi, "you"'},
            {"from": "gpt", "value": "Hello\n你好"},
            {"from": "human", "value": "What is\n1+1?"},
            {"from": "gpt", "value": "<think>\nadd\n</think>\n\nTwo, 2"},
        ],
        "tools": "",
    },
    {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {
                "from": "function_call",
                "value": "<think>\nlook it up\n</think>\n\n"
                + json.dumps({"name": "weather", "arguments": '{"city": "北京"}'}),
            },
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "It is sunny."},
        ],
        "tools": json.dumps([FUNCTION]),
    },
    {
        "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        "tools": "",
    },
]
OPENAI_ROWS = [
    {
        "messages": [
            {"role": "system", "content": "Be kind.\nAlways."},
            {"role": "user", "content": 'Hi, "you"'},
            {"role": "assistant", "content": "Hello\n你好"},
            {"role": "user", "content": "What is\n1+1?"},
            {"role": "assistant", "content": "Two, 2", "reasoning_content": "add"},
        ],
        "tools": [],
    },
    {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "look it up",
                "tool_calls": [OPENAI_CALL],
            },
            {"role": "tool", "content": "sunny", "tool_call_id": "1"},
            {"role": "assistant", "content": "It is sunny."},
        ],
        "tools": [TOOL],
    },
    {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "tools": None,
    },
]
CONVERSATIONS = [
    Conversation(messages=TALK),
    Conversation(messages=ASKS, tools=(TOOL,)),
    Conversation(messages=PLAIN),
]
FORMATS: dict[str, tuple[list[dict[str, Any]], list[Conversation]]] = {
    "alpaca": (ALPACA_ROWS, [CONVERSATIONS[0], CONVERSATIONS[2]]),
    "sharegpt": (SHAREGPT_ROWS, CONVERSATIONS),
    "openai": (OPENAI_ROWS, CONVERSATIONS),
}


def find(name: str, folder: Path) -> DataSet:
    (data,) = find_datasets(name, folder, max_samples=None, seed=42)
    return data


@pytest.mark.parametrize("formatting", FORMATS)
@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_every_format_in_every_file_type(tmp_path: Path, formatting: str, file_type: str) -> None:
    rows, conversations = FORMATS[formatting]
    suffix, write = FILE_TYPES[file_type]
    file = tmp_path / f"rows{suffix}"
    write(file, rows)
    data = find(str(file), tmp_path)
    assert data.format.formatting == formatting
    got = [item for item in data.rows() if isinstance(item, Row)]
    assert [row.conversation for row in got] == conversations
    assert len({row.place for row in got}) == len(rows)


def test_text_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_bytes("Hi?\tHello\r\n\r\nno tab\n你\t<think>\nr\t好\n".encode())
    items = list(find(str(file), tmp_path).rows())
    first, no_tab, unclosed, *_rest = items
    assert isinstance(first, Row)
    assert first.conversation.messages == (user("Hi?"), bot("Hello"))
    assert str(no_tab) == (
        f"{file}:3: The line has no tab; plain text is for pre-training. "
        "Write question, tab, answer; or use .jsonl."
    )
    assert isinstance(unclosed, Row)
    assert unclosed.place == f"{file}:4"


def test_openai_parts_developer_and_several_results() -> None:
    row = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": text} for text in "ab"]},
            {"role": "assistant", "content": "", "tool_calls": [OPENAI_CALL, OPENAI_CALL]},
            {"role": "tool", "content": "1"},
            {"role": "tool", "content": ""},
            {"role": "assistant", "content": "done", "reasoning": "so"},
        ],
        "tools": json.dumps([TOOL]),
    }  # fmt: skip
    got = conversation("openai", row)
    assert got.messages == (
        Message(role="system", content="Be brief."),
        user("ab"),
        bot("", None, CALL, CALL),
        Message(role="tool", content="1"),
        Message(role="tool", content=""),
        bot("done", "so"),
    )
    assert got.tools == (TOOL,)


def test_names_that_differ_are_merged_with_the_defaults() -> None:
    row = {"talk": [{"role": "q", "value": "a"}, {"role": "gpt", "value": "b"}], "system": "S"}
    got = conversation(
        "sharegpt", row, columns={"messages": "talk"}, tags={"role_tag": "role", "user_tag": "q"}
    )
    assert got.messages == (Message(role="system", content="S"), *PLAIN)
    row = {"q": "a", "output": "b", "tools": [FUNCTION]}
    assert conversation("alpaca", row, columns={"prompt": "q"}).tools == (TOOL,)


def test_missing_values_are_empty() -> None:
    got = conversation(
        "alpaca", {"instruction": "a", "input": None, "output": "b", "history": None}
    )
    assert got.messages == PLAIN
    got = conversation("openai", {**messages(("system", ""), ("user", "a"), ("assistant", "b"))})
    assert got.messages == PLAIN


@pytest.mark.parametrize(
    ("row", "formatting", "names"),
    [
        ({"prompt": "a", "response": "b"}, "alpaca", "prompt, response"),
        ({"question": "a", "answer": "b"}, "alpaca", "question, answer"),
        ({"问题": "a", "回答": "b"}, "alpaca", "问题, 回答"),
        ({"指令": "a", "输出": "b"}, "alpaca", "指令, 输出"),
        ({"input": "a", "output": "b"}, "alpaca", "input, output"),
        ({"Question": "a", "ANSWER": "b"}, "alpaca", "Question, ANSWER"),
        ({"Instruction": "a", "Input": "", "Output": "b"}, "alpaca", "Instruction, Input, Output"),
        ({"Output": "c", "input": "a", "output": "b"}, "alpaca", "input, output"),
        (messages(("user", "a"), ("assistant", "b")), "openai", "messages, role"),
        (
            {"conversations": messages(("user", "a"), ("assistant", "b"))["messages"]},
            "openai",
            "conversations, role",
        ),
        (
            {
                "conversations": [
                    {"from": "user", "value": "a"},
                    {"from": "assistant", "value": "b"},
                ]
            },
            "sharegpt",
            "conversations, from",
        ),
    ],
)
def test_the_format_is_told_from_the_fields(
    tmp_path: Path, row: dict[str, Any], formatting: str, names: str
) -> None:
    (tmp_path / "rows.jsonl").write_text("broken\n" + json.dumps(row), encoding="utf-8")
    data = find("rows.jsonl", tmp_path)
    assert formatting in data.describe()
    assert names in data.describe()
    broken, good = data.rows()
    assert isinstance(broken, Finding)
    assert isinstance(good, Row)
    assert good.conversation.messages == PLAIN
