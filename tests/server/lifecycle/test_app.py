"""The application: every fault is an answer in OpenAI's shape, and says no more than it should."""

from __future__ import annotations

import logging
import re

import pytest

from danlu import __version__
from danlu.server.state import state_of
from tests.helpers.serving.server import (
    JSON,
    KEY,
    ScriptedService,
    ask,
    bearer,
    post,
    scripted_serving,
    server_app,
)


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("api", 429, "rate_limit_error"),
        ("usage", 400, "invalid_request_error"),
        ("data", 400, "invalid_request_error"),
        ("capacity", 503, "server_error"),
        ("environment", 500, "server_error"),
        ("bug", 500, "server_error"),
    ],
)
def test_faults_become_errors(
    fault: str, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = post(server_app(), f"/test/fail/{fault}", {})
    assert (answer.status, answer.error["type"]) == (status, kind)
    if status == 500:
        # What happened stands in the log, under the id that the client gets.
        assert "secret" not in answer.body.decode()
        identity = answer.headers["x-request-id"]
        assert identity in answer.error["message"]
        assert identity in caplog.text
        assert "secret" in caplog.text
    else:
        assert "--fix" not in answer.error["message"]  # a flag helps nobody who writes HTTP


def test_headers_of_an_error_are_kept() -> None:
    assert post(server_app(), "/test/fail/api", {}).headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"count": -1}, "count", "greater than or equal to 0"),
        ({"messages": [{"role": "user"}, {"role": 5}]}, "messages[1].role", "valid string"),
        ({"strange": 1}, "strange", "no such field"),
        ([1], None, "dictionary"),
        (b"", None, "required"),
        (b"{", None, "JSON"),
        (b'{"text": 1e999}', "text", "string"),
        (b'{"text": "x"} y', None, "JSON"),
        (b'{"\\ud800": 1}', None, "valid string"),
    ],
)
def test_malformed_bodies_name_the_field(body: object, param: str | None, says: str) -> None:
    answer = post(server_app(), "/test/echo", body)
    assert answer.status == 400
    assert answer.error["param"] == param
    assert says in answer.error["message"]


def test_what_is_wrong_is_not_repeated() -> None:
    answer = post(server_app(), "/test/echo", {"count": "private text"})
    assert "private" not in answer.body.decode()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("POST", "/health", 405), ("GET", "/v1/model", 404)],
)
def test_wrong_routes(method: str, path: str, status: int) -> None:
    answer = ask(server_app(), method, path, headers=[JSON], body=b"{}")
    assert answer.status == status
    assert "/docs" in answer.error["message"]


def test_every_answer_has_an_id_of_its_own() -> None:
    app = server_app(keys=[KEY])
    answers = [
        ask(app, "GET", "/health"),
        ask(app, "GET", "/v1/models"),
        ask(app, "GET", "/nowhere", headers=[bearer()]),
        ask(app, "GET", "/health", host="evil.example"),
        post(app, "/test/fail/bug", {}, headers=[bearer()]),
    ]
    assert [answer.status for answer in answers] == [200, 401, 404, 403, 500]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == len(answers)
    assert all(re.fullmatch(r"req-[0-9a-f]{24}", identity) for identity in ids)


def test_an_answer_that_breaks_off_is_not_completed(caplog: pytest.LogCaptureFixture) -> None:
    answer = post(server_app(), "/test/break", {})
    assert answer.broken
    assert answer.body == b"begun"
    assert "secret in the middle" in caplog.text


def test_a_line_for_every_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="danlu")
    app = server_app()
    answer = ask(app, "GET", "/v1/models/tiny?secret=1")
    post(app, "/test/echo", {"text": "a private prompt"})
    ask(app, "GET", "/no/such?secret=2")
    first, second, third = (record.getMessage() for record in caplog.records)
    identity = answer.headers["x-request-id"]
    assert re.fullmatch(
        rf"GET /v1/models/{{model_id:path}} 200 \d+ms tokens 0\+0 {identity}", first
    )
    assert second.startswith("POST /test/echo 200 ")
    assert third.startswith("GET /no/such 404 ")
    assert "secret" not in caplog.text
    assert "private" not in caplog.text


def test_health_and_readiness() -> None:
    loading = server_app(loading=True)
    assert ask(loading, "GET", "/health").json() == {"status": "loading"}
    for path in ("/ready", "/v1/models", "/metrics"):
        answer = ask(loading, "GET", path)
        assert (answer.status, answer.error["code"]) == (503, "loading")
        assert int(answer.headers["retry-after"]) > 0
    service = ScriptedService()
    app = server_app(serving=scripted_serving(service))
    assert ask(app, "GET", "/health").json() == {"status": "ok"}
    assert ask(app, "GET", "/ready").status == 200
    service.is_alive = False
    for path in ("/health", "/ready"):
        answer = ask(app, "GET", path)
        assert (answer.status, answer.error["code"]) == (503, "engine_failed")


def test_a_server_that_stops_takes_nothing_new() -> None:
    app = server_app()
    state_of(app).is_stopping = True
    answer = post(app, "/test/echo", {})
    assert (answer.status, answer.error["code"]) == (503, "stopping")
    assert answer.headers["connection"] == "close"
    assert ask(app, "GET", "/health").json() == {"status": "stopping"}


def test_version() -> None:
    assert ask(server_app(), "GET", "/version").json() == {"version": __version__}


def test_the_document_is_complete_and_true() -> None:
    document = ask(server_app(keys=[KEY]), "GET", "/openapi.json", headers=[bearer()]).json()
    app = server_app()
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert {("POST", "/v1/load_lora_adapter"), ("GET", "/v1/models/{model_id}")} < described
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/test/"):
                continue
            responses = operation["responses"]
            assert operation["description"], (method, path)
            assert {"200", "4XX", "5XX"} <= set(responses)
            assert "422" not in responses  # it is 400 here, as OpenAI does
            error = responses["4XX"]["content"]["application/json"]["schema"]
            assert error["$ref"].endswith("/ErrorBody")
            assert ("security" in operation) == (path != "/health")
    assert "securitySchemes" not in ask(app, "GET", "/openapi.json").json()["components"]
    assert "http" not in str(document["servers"])
