"""Chats of other programs: read with their branches, written so that they can be read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.dialog.session import Session
from tests.helpers.studio import StudioClient, studio_client


def node(parent: str, role: str, *parts: Any) -> dict[str, Any]:
    """A message as OpenAI's page exports it."""
    message = {"author": {"role": role}, "content": {"parts": list(parts)}}
    return {"parent": parent, "message": message}


OPENAI_EXPORT = {
    "title": "Fire",
    "current_node": "d",
    "mapping": {
        "d": node("b", "assistant", "two"),
        "root": {"parent": None, "message": None},
        "s": node("root", "system", ""),
        "b": node("s", "user", "hi", {}),
        "c": node("b", "assistant", "one"),
    },
}
OPEN_WEBUI = {
    "id": "x",
    "title": "Water",
    "chat": {
        "history": {
            "currentId": "3",
            "messages": {
                "1": {"parentId": None, "role": "user", "content": "hi"},
                "2": {"parentId": "1", "role": "assistant", "content": "one"},
                "3": {"parentId": "1", "role": "assistant", "content": "two"},
            },
        }
    },
}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {"role": "assistant", "content": "two", "reasoning_content": "hm"},
]


def imported(client: StudioClient, value: Any) -> dict[str, Any]:
    made = client.post("/studio/chats/import", json={"chat": value})
    assert made.status_code == 200, made.text
    return dict(client.get(f"/studio/chats/{made.json()['id']}").json())


def branch(chat: dict[str, Any]) -> list[tuple[str, str]]:
    known = {turn["id"]: turn for turn in chat["turns"]}
    found, at = [], chat["shown"]
    while at is not None:
        found.append((known[at]["role"], known[at]["content"]))
        at = known[at]["before"]
    return found[::-1]


@pytest.mark.parametrize(
    ("value", "title", "count"),
    [
        (OPENAI_EXPORT, "Fire", 3),
        (OPEN_WEBUI, "Water", 3),
        ({"title": "Air", "messages": MESSAGES}, "Air", 2),
        (MESSAGES, "hi", 2),
    ],
)
def test_chats_of_other_programs(tmp_path: Path, value: Any, title: str, count: int) -> None:
    with studio_client(tmp_path) as client:
        chat = imported(client, value)
        assert chat["title"] == title
        assert branch(chat) == [("user", "hi"), ("assistant", "two")]
        assert len(chat["turns"]) == count
        if "messages" in value or isinstance(value, list):
            assert chat["settings"]["system"] == "Be brief."


@pytest.mark.parametrize("form", ["danlu", "openai", "open_webui"])
def test_what_is_exported_can_be_imported(tmp_path: Path, form: str) -> None:
    with studio_client(tmp_path) as client:
        first = imported(client, OPEN_WEBUI)
        answer = client.get(f"/studio/chats/{first['id']}/export?form={form}")
        assert answer.headers["content-disposition"].startswith("attachment")
        value = answer.json()
        second = imported(client, value[0] if isinstance(value, list) else value)
        assert branch(second) == branch(first)
        assert second["title"] == "Water"
        if form != "openai":  # messages hold the shown branch alone
            assert len(second["turns"]) == 3
        if form == "danlu":  # the terminal's /load reads it
            assert len(Session.of_record(value, "x").turns) == 3


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALLED = {
    "title": "Rain",
    "tools": [WEATHER],
    "messages": [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "function": {"name": "weather", "arguments": '{"city": "上海"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ],
}


@pytest.mark.parametrize("form", ["danlu", "openai"])
def test_calls_of_tools_are_kept_on_every_way(tmp_path: Path, form: str) -> None:
    with studio_client(tmp_path) as client:
        chat = imported(client, CALLED)
        for _way in range(2):
            assert chat["settings"]["tools"] == [WEATHER]
            assert branch(chat) == [
                ("user", "?"), ("assistant", ""), ("tool", "rain"), ("assistant", "It rains."),
            ]  # fmt: skip
            [call] = chat["turns"][1]["tool_calls"]
            assert call["function"] == {"name": "weather", "arguments": '{"city": "上海"}'}
            chat = imported(
                client, client.get(f"/studio/chats/{chat['id']}/export?form={form}").json()
            )
        text = client.get(f"/studio/chats/{chat['id']}/export?form=markdown").text
        assert '`weather`\n\n```json\n{"city": "上海"}\n```' in text


@pytest.mark.parametrize(
    "change",
    [{"tools": [{"type": "function"}]}, {"tools": 3}, {"messages": [
        {"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [{"name": "x"}]},
    ]}],
)  # fmt: skip
def test_tools_that_are_none_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with studio_client(tmp_path) as client:
        made = client.post("/studio/chats/import", json={"chat": {**CALLED, **change}})
        assert made.status_code == 400
        assert client.get("/studio/chats").json() == []


def test_markdown_is_for_reading(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = imported(client, OPEN_WEBUI)
        text = client.get(f"/studio/chats/{chat['id']}/export?form=markdown").text
        assert text.startswith("# Water\n\n## You\n\nhi\n\n## Answer\n\ntwo")


@pytest.mark.parametrize(
    "value",
    [
        None, 5, "x", [], {}, {"messages": []}, {"messages": [{"role": "user"}]}, {"mapping": {}},
        [{"role": "user", "content": 5}], {"danlu_chat": 1, "turns": "x"},
        {"mapping": {"a": {"parent": "b"}, "b": {"parent": "a"}}},
        {"mapping": {"a": {"parent": "none", "message": None}}},
        {"chat": {"history": {"messages": {"1": {"role": "user"}}}}},
    ],
)  # fmt: skip
def test_what_is_no_chat_is_refused_and_leaves_nothing(tmp_path: Path, value: Any) -> None:
    with studio_client(tmp_path) as client:
        answer = client.post("/studio/chats/import", json={"chat": value})
        assert answer.status_code == 400, answer.text
        assert client.get("/studio/chats").json() == []


def test_a_long_chat_is_no_recursion(tmp_path: Path) -> None:
    nodes = {
        str(n): {"parentId": str(n - 1) if n else None, "role": "user", "content": str(n)}
        for n in range(3000)
    }
    value = {"chat": {"history": {"currentId": "2999", "messages": dict(reversed(nodes.items()))}}}
    with studio_client(tmp_path) as client:
        assert len(branch(imported(client, json.loads(json.dumps(value))))) == 3000


@pytest.mark.parametrize(
    "value",
    [
        {"title": "\ud800", "messages": [{"role": "user", "content": "hi"}]},
        [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}],
        [{"role": "system", "content": "\ud800"}, {"role": "user", "content": "hi"}],
        {
            "danlu_chat": 1,
            "end": 0,
            "turns": [{"before": None, "role": "user", "content": "\ud800"}],
        },
    ],
)
def test_half_characters_become_marks(tmp_path: Path, value: Any) -> None:
    with studio_client(tmp_path) as client:
        answer = client.post(
            "/studio/chats/import",
            content=json.dumps({"chat": value}).encode(),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 200, answer.text
        assert len(client.get("/studio/chats").json()) == 1
