"""The table of docs/serving.md against the running server: every field has the fate it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.server.openai import foreign_fields
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, client_for, served

PAGES = Path(__file__).resolve().parents[3] / "docs"
HEADINGS = {
    "serving.md": "### Fields of other servers",
    "serving.zh-CN.md": "### 其他服务器和客户端的字段",
}
IN_ENGLISH = {
    "两者": "both",
    "接受，并列出": "accepted, and listed",
    "此值或空值接受，其他值拒绝": "accepted with this value or empty, else refused",
}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "text"},
    },
    COMPLETIONS: {"prompt": "Hi"},
}
# Which routes a row of the table is about, and where its fields stand in their bodies.
PLACES: dict[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "both": ((CHAT, COMPLETIONS), ()),
    "chat": ((CHAT,), ()),
    "completions": ((COMPLETIONS,), ()),
    "`messages[]`": ((CHAT,), ("messages", 0)),
    "`response_format`": ((CHAT,), ("response_format",)),
    "`stream_options`": ((CHAT, COMPLETIONS), ("stream_options",)),
    "`reasoning`": ((CHAT,), ("reasoning",)),
    "`thinking`": ((CHAT,), ("thinking",)),
}
TABLES = {
    "both": foreign_fields.SAMPLING_FIELDS,
    "chat": foreign_fields.CHAT_FIELDS,
    "completions": foreign_fields.COMPLETION_FIELDS,
    "`messages[]`": foreign_fields.MESSAGE_FIELDS,
    "`response_format`": foreign_fields.FORMAT_FIELDS,
    "`stream_options`": foreign_fields.STREAM_FIELDS,
    "`reasoning`": foreign_fields.REASONING_FIELDS,
    "`thinking`": foreign_fields.THINKING_FIELDS,
}
SOMETHING = {"a": ["value"]}  # that no field takes


def rows(page: str = "serving.md") -> Iterator[tuple[str, str, list[Any], str]]:
    """Give (place, field, its values, what happens) of a page's table, in English words."""
    section = (PAGES / page).read_text(encoding="utf-8").split(HEADINGS[page])[1]
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    for line in lines[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        place, fields, fate = (IN_ENGLISH.get(cell, cell) for cell in cells)
        fate = fate.replace("等同于", "the same as")
        values: dict[str, list[Any]] = {}
        for name, value in re.findall(r"`(\w+)(?:: ([^`]+))?`", fields):
            values.setdefault(name, []).extend([json.loads(value)] if value else [])
        for name, known in values.items():
            yield place, name, known, fate


ROWS = list(rows())


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    engine = ScriptedEngine(tokenizer(), lambda _request: "Fine.")
    with served(engine, context_tokens=300) as serving:
        yield client_for(serving)


def asked(client: TestClient, place: str, name: str, value: Any) -> Iterator[tuple[Any, str]]:
    """Ask with a field at its place, on each of its routes; the answer and the field's path."""
    routes, path = PLACES[place]
    for route in routes:
        body = json.loads(json.dumps(BODIES[route]))
        where: Any = body
        for step in path:
            where = where[step] if isinstance(step, int) else where.setdefault(step, {})
        where[name] = value
        full = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        yield client.post(route, json=body), f"{full}.{name}".lstrip(".")


@pytest.mark.parametrize(("place", "name", "values", "fate"), ROWS)
def test_a_field_has_the_fate_that_the_page_says(
    client: TestClient, place: str, name: str, values: list[Any], fate: str
) -> None:
    for value in (*values, None, "", [], {}):
        if value in ("", [], {}) and fate.startswith("the same as"):
            continue  # then it is our own field's value
        for response, _path in asked(client, place, name, value):
            assert response.status_code == 200, response.text
            assert "x-danlu-ignored" not in response.headers
    for response, path in asked(client, place, name, SOMETHING):
        if fate == "accepted, and listed":
            assert response.status_code == 200, response.text
            assert response.headers["x-danlu-ignored"] == path.replace("[0]", "")
        elif fate.startswith("the same as"):
            own = re.findall(r"`(\w+)`", fate)[0]
            error = response.json()["error"]
            assert (response.status_code, error["param"].split(".")[-1]) == (400, own)
        else:
            assert fate == "accepted with this value or empty, else refused"
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, path)
            assert len(error["message"].removeprefix(f"{path}: ")) > 10  # what to use instead


def test_the_chinese_page_says_the_same() -> None:
    assert list(rows("serving.zh-CN.md")) == ROWS


def test_the_page_names_all_fields_that_have_a_fate() -> None:
    for place, table in TABLES.items():
        common = TABLES["both"] if place in ("chat", "completions") else {}
        own = {name for name, field in table.items() if common.get(name) is not field}
        assert {name for where, name, _values, _fate in ROWS if where == place} == own
    for place, name, values, _fate in ROWS:
        assert tuple(values) == TABLES[place][name].neutral, name


@pytest.mark.parametrize(
    ("fields", "near"),
    [
        ({"temprature": 1}, "temperature"),
        ({"max_token": 5}, "max_tokens"),
        ({"stream_options": {"include_usages": True}}, "include_usage"),
        ({"qqqq": False}, None),
    ],
)
def test_an_unknown_field_is_refused_and_the_nearest_is_named(
    client: TestClient, fields: dict[str, Any], near: str | None
) -> None:
    response = client.post(CHAT, json=BODIES[CHAT] | fields)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "There is no such field" in message
    assert near is None or f"did you mean {near}?" in message


def test_two_names_of_one_field_must_agree(client: TestClient) -> None:
    both = {"repeat_penalty": 1.1, "repetition_penalty": 1.1}
    for fields in (both, both | {"repetition_penalty": None}):
        assert client.post(CHAT, json=BODIES[CHAT] | fields).status_code == 200
    response = client.post(CHAT, json=BODIES[CHAT] | both | {"repetition_penalty": 1.2})
    assert response.json()["error"]["param"] == "repeat_penalty"


def test_names_in_the_header_are_bounded_and_safe(client: TestClient) -> None:
    notes = {f"note{place:03}\r\nx-evil: 中文": 1 for place in range(100)}
    message = {"role": "user", "content": "Hi", **notes}
    response = client.post(CHAT, json={"messages": [message, {**message, "y" * 500: 1}]})
    assert response.status_code == 200
    listed = response.headers["x-danlu-ignored"]
    assert listed.startswith("messages.note000??x-evil????, messages.note001")
    assert len(listed) < 1500
    assert "x-evil" not in response.headers
