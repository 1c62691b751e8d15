"""The server's replies and its page of routes under DANLU_LANG=zh."""

from __future__ import annotations

import json

import pytest

from tests.helpers.chinese import CHINESE, faults
from tests.helpers.serving.server import ask, post, server_app

CHAT = {"messages": [{"role": "user", "content": "你好"}]}
BODIES = [
    "{", '{"messages": }', "[]", "3", '{"messages": 3}', '{"messages": []}', "{}",
    '{"messages": [{"role": "user"}]}', '{"messages": [{"role": "king", "content": "x"}]}',
    *(
        json.dumps({**CHAT, **extra})
        for extra in (
            {"temperature": "hot"}, {"temperature": -1}, {"top_p": 7}, {"n": 0}, {"n": 1.5},
            {"stop": 3}, {"max_tokens": "x"}, {"seed": "x"}, {"stream": "yes"}, {"tempreature": 1},
            {"tools": 3}, {"tools": [{"type": "function"}]}, {"tool_choice": "x"},
            {"response_format": {"type": "xml"}}, {"response_format": {"type": "json_schema"}},
            {"logit_bias": {"a": 1}}, {"use_beam_search": True}, {"options": {"a": 1}},
            {"functions": [1]}, {"top_logprobs": 3}, {"reasoning_effort": "huge"},
            {"structured_outputs": {"choice": []}},
        )
    ),
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_LANG", "zh")


@pytest.mark.parametrize("body", BODIES)
def test_a_refusal_is_chinese(body: str) -> None:
    answer = post(server_app(), "/v1/chat/completions", body.encode())
    assert answer.status == 400
    message = json.loads(answer.body)["error"]["message"]
    assert CHINESE.search(message)
    assert "English" not in faults(message), message


@pytest.mark.parametrize("path", ["/nothing", "/v1/embeddings", "/api/chat", "/tokenizer_info"])
def test_what_is_not_served(path: str) -> None:
    message = json.loads(ask(server_app(), "GET", path).body)["error"]["message"]
    assert CHINESE.search(message)
    assert "English" not in faults(message), message


def test_the_page_of_routes() -> None:
    app = server_app()
    page = ask(app, "GET", "/docs").body.decode()
    assert 'lang="zh-CN"' in page
    document = json.loads(ask(app, "GET", "/openapi.json").body)
    operations = [
        operation
        for path, methods in document["paths"].items()
        if not path.startswith("/test/")
        for operation in methods.values()
    ]
    assert len(operations) > 8
    for operation in operations:
        for text in (operation["description"], *operation["tags"]):
            assert CHINESE.search(text)
            assert "English" not in faults(text), text
