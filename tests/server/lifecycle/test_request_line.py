"""HEAD, whole addresses as targets, the bare address, and addresses of other APIs."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, application, running, served
from tests.helpers.serving.server import JSON, KEY, ask, bearer, server_app


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    engine = ScriptedEngine(tokenizer(), lambda _request: "Fine.")
    with served(engine) as serving, running(application(serving)) as found:
        yield found


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/v1/models", "/v1/models/tiny"])
def test_head_is_answered_where_get_is(address: str, path: str) -> None:
    """Over one connection: a body that nobody may send would be taken for the next answer."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    found = {}
    for method in ("HEAD", "GET", "HEAD"):
        connection.request(method, path)
        response = connection.getresponse()
        found[method] = response.read()
        assert response.status == 200
        assert int(response.headers["content-length"]) > 0
    assert found["HEAD"] == b""
    assert found["GET"]
    connection.close()


def test_head_is_refused_where_get_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="danlu")
    app = server_app(keys=[KEY])
    assert ask(app, "HEAD", "/v1/models").status == 401
    assert ask(app, "HEAD", "/v1/models/tiny", headers=[bearer()]).body == b""
    assert ask(app, "HEAD", "/v1/chat/completions", headers=[bearer()]).status == 405
    assert "HEAD /v1/models/{model_id:path} 200" in caplog.text


@pytest.mark.parametrize("target", ["/health", "", "/v1/models/tiny"])
def test_a_target_may_be_a_whole_address(address: str, target: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    connection.request("GET", f"{address}{target}")
    response = connection.getresponse()
    assert response.status == 200, response.read()
    connection.close()


def test_a_whole_address_is_checked_like_a_path() -> None:
    app = server_app(keys=[KEY])
    own = "http://localhost:8000"
    assert ask(app, "GET", f"{own}/health").status == 200
    assert ask(app, "GET", f"{own}/v1/models").status == 401
    assert ask(app, "GET", f"{own}/v1/models", headers=[bearer()]).status == 200
    for other in ("http://evil.example:8000/health", "http://[/health", "https:///health"):
        assert ask(app, "GET", other).status in (400, 401)
    assert ask(app, "GET", "http://evil.example/health", host="evil.example").status == 403


def test_the_bare_address_shows_the_page() -> None:
    app = server_app(keys=[KEY])
    assert ask(app, "GET", "/").body == ask(app, "GET", "/docs").body


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/models", "/v1/models"),
        ("/v1/responses", "/v1/chat/completions"),
        ("/v1/messages", "/v1/chat/completions"),
        ("/api/chat", "/v1/chat/completions"),
    ],
)
def test_addresses_of_other_apis_are_answered_with_ours(path: str, near: str) -> None:
    answer = ask(server_app(), "POST", path, headers=[JSON], body=b"{}")
    assert answer.status == 404
    assert f"use {near}." in answer.error["message"]
    assert ask(server_app(), "POST", near, headers=[JSON], body=b"{}").status != 404


@pytest.mark.parametrize(
    ("method", "path", "advice"),
    [
        ("GET", "/tokenizer_info", "tokenizer=FOLDER"),
        ("POST", "/v1/embeddings", "ask another one for embeddings"),
    ],
)
def test_addresses_that_nothing_here_answers_say_what_to_do(
    method: str, path: str, advice: str
) -> None:
    """lm-eval looks for /tokenizer_info before each run, langchain's embeddings for theirs."""
    answer = ask(server_app(), method, path, headers=[JSON])
    assert answer.status == 404
    assert advice in answer.error["message"]
