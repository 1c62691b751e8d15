"""What goes wrong stays with its request, says so in OpenAI's shape, and gives its seats back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from danlu.engine.request import Request
from danlu.engine.service import EngineService
from danlu.errors import CapacityError, DataError, UsageError
from danlu.server.openai import chat_completions as chat
from danlu.server.state import Serving
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import (
    ScriptedEngine,
    application,
    client_for,
    recorded,
    running,
    served,
)
from tests.helpers.serving.sse import events_of
from tests.helpers.waiting import PATIENCE_S, wait_until

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
CHAT = "/v1/chat/completions"
PROBLEMS: list[tuple[Exception, int, str]] = [
    (UsageError("The expression is no expression.", why="It is not closed.", fix="."), 400, "expr"),
    (DataError("The numbers are not finite.", why="/secret/path", fix="."), 500, "not finite"),
    (CapacityError("There is no memory.", why="/secret/path", fix="."), 503, "no memory"),
    (RuntimeError("secret address 0x7f"), 500, "under"),
]


def scripted(script: Any) -> ScriptedEngine:
    return ScriptedEngine(tokenizer(), script if callable(script) else lambda _request: script)


@contextmanager
def client_of(script: Any, **settings: Any) -> Iterator[tuple[TestClient, Serving]]:
    with served(scripted(script), **settings) as serving:
        yield client_for(serving), serving


@pytest.mark.parametrize(("problem", "status", "words"), PROBLEMS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("when", ["added", "later"])
def test_a_request_that_fails_says_why(
    caplog: pytest.LogCaptureFixture,
    problem: Exception,
    status: int,
    words: str,
    stream: bool,
    when: str,
) -> None:
    def script(_request: Request) -> Exception:
        if when == "added":
            raise problem
        return problem

    caplog.set_level(logging.CRITICAL)
    with client_of(script) as (client, serving):
        response = client.post(CHAT, json={**HELLO, "stream": stream, "n": 2})
        assert response.status_code == status
        error = response.json()["error"]
        assert words in error["message"]
        assert "secret" not in response.text
        wait_until(lambda: serving.service.num_seats_taken == 0)


def test_a_failure_after_the_stream_has_begun_is_its_last_event() -> None:
    class Failing(ScriptedEngine):
        def _outputs(self, *arguments: Any) -> Iterator[Any]:
            outputs = super()._outputs(*arguments)
            for _step in range(9):
                yield next(outputs)
            yield from super()._outputs(*arguments[:2], RuntimeError("secret"))

    engine = Failing(tokenizer(), lambda _request: "Hello there, how are you today?")
    with served(engine, enable_thinking=False) as serving:
        logging.disable(logging.ERROR)
        response = client_for(serving).post(CHAT, json={**HELLO, "stream": True})
        logging.disable(logging.NOTSET)
    assert response.status_code == 200
    assert "secret" not in response.text
    *chunks, last = events_of(response.text)
    assert chunks[1]["choices"][0]["delta"]["content"]
    assert last["error"]["code"] == "internal_error"
    assert last["error"]["type"] == "server_error"


def test_a_failing_request_leaves_the_others_alone() -> None:
    def script(request: Request) -> str | Exception:
        return RuntimeError("no") if request.sampling.seed == 13 else "Fine."

    logging.disable(logging.ERROR)
    with client_of(script) as (client, _serving):
        statuses = [
            client.post(CHAT, json={**HELLO, "seed": seed}).status_code for seed in (1, 13, 2)
        ]
    logging.disable(logging.NOTSET)
    assert statuses == [200, 500, 200]


def test_a_full_queue_refuses_before_any_text_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of("Fine.", num_seats=4) as (client, serving):
        assert serving.service.reserve(2)

        def not_now(*_arguments: object) -> None:
            raise AssertionError("rendered although there is no seat")

        with monkeypatch.context() as patched:
            patched.setattr(chat, "ask", not_now)
            for path, body in (
                (CHAT, {**HELLO, "n": 3}),
                ("/v1/completions", {"prompt": ["a", "b"], "n": 2}),
            ):
                response = client.post(path, json=body)
                assert response.status_code == 429
                assert response.headers["retry-after"] == "1"
                assert response.json()["error"]["code"] == "queue_full"
        assert client.post(CHAT, json={**HELLO, "n": 2}).status_code == 200
        wait_until(lambda: serving.service.num_seats_taken == 2)


def test_more_answers_than_there_are_seats_are_not_told_to_try_again() -> None:
    """As lm-eval with a great batch size: it would repeat a request that can never be served."""
    with client_of("Fine.", num_seats=4) as (client, _serving):
        for path, body in (
            (CHAT, {**HELLO, "n": 5}),
            ("/v1/completions", {"prompt": ["a", "b", "c", "d", "e"]}),
        ):
            response = client.post(path, json=body)
            assert response.status_code == 400
            assert "Send fewer prompts" in response.json()["error"]["message"]
        assert client.post("/v1/completions", json={"prompt": list("abcd")}).status_code == 200


def test_seats_are_given_back_when_the_prompt_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_arguments: object) -> None:
        raise UsageError("What.", why="Why.", fix="Fix.")

    with client_of("Fine.") as (client, serving):
        monkeypatch.setattr(chat, "ask", broken)
        response = client.post(CHAT, json={**HELLO, "n": 3})
        assert response.status_code == 400
        assert response.json()["error"]["message"] == "What. Why."
        assert serving.service.num_seats_taken == 0


def test_rendering_and_tokenizing_do_not_hold_up_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    real = chat.ask

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr(chat, "ask", noted)
    with served(scripted("Fine.")) as serving, running(application(serving)) as address:
        httpx.post(address + CHAT, json=HELLO)
    assert [thread.name for thread in threads] != ["server"]
    assert threads


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_stops_ends_answers_with_an_error(stream: bool) -> None:
    engine = scripted("word " * 2000)
    engine.step_seconds = 0.005
    with served(engine) as serving, running(app := application(serving)) as address:
        found: list[httpx.Response] = []

        def ask() -> None:
            found.append(
                httpx.post(address + CHAT, json={**HELLO, "stream": stream}, timeout=PATIENCE_S)
            )

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: recorded(app).tokens > 5)  # so its stream has begun
        serving.service.stop()
        thread.join()
        later = httpx.post(address + CHAT, json=HELLO)
    [response] = found
    if stream:
        assert response.status_code == 200
        assert events_of(response.text)[-1]["error"]["code"] == "unavailable"
    else:
        assert response.status_code == 503
    assert later.status_code == 503


def test_the_metrics_hear_of_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of("Fine.") as (client, serving):
        client.post(CHAT, json={**HELLO, "n": 2})
        figures = recorded(client.app)
        tokens = len(tokenizer().encode_text("Fine.")) + 1
        assert figures.started == figures.first_tokens == 2
        assert figures.tokens == 2 * (tokens - 1)
        [(reason, prompt, completion, cached), _other] = figures.finished
        assert (reason, completion, cached) == ("stop", tokens, 0)
        assert prompt > 5
        assert isinstance(serving.service, EngineService)
