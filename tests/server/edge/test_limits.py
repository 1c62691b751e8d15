"""Limits: size, form, depth, time and number of what comes in, however it comes in."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import pytest
from fastapi import APIRouter
from hypothesis import given
from hypothesis import strategies as st

from danlu.errors import UsageError
from danlu.server.edge import limits, request_body
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.keys import Keys
from danlu.server.edge.request_body import MAX_DEPTH, check_json
from danlu.server.lifecycle.app import create_app
from danlu.server.settings import ServeSettings
from danlu.server.state import ServerState
from danlu.settings.resolve import resolve
from tests.helpers.serving.server import (
    JSON,
    ask,
    ask_async,
    bearer,
    post,
    scripted_serving,
    server_app,
)
from tests.helpers.timing import processor_time

LIMIT = 1024
TEXT = st.text(max_size=5) | st.sampled_from(['"', "\\", '\\"', "[{", "NaN", "\\\\"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=20,
)


def sized(size: int) -> bytes:
    body = b'{"text": ""}'
    return body[:-2] + b"a" * (size - len(body)) + body[-2:]


@pytest.mark.parametrize("declared", [None, "5", "0", "junk", "-1", "9" * 40])
@pytest.mark.parametrize("pieces", [1, 7])
def test_the_body_is_bounded_whatever_its_headers_say(declared: str | None, pieces: int) -> None:
    app = server_app(max_body_bytes=LIMIT)
    headers = [JSON, *([("content-length", declared)] if declared else [])]
    for size, status in ((LIMIT, 200), (LIMIT + 1, 413), (50 * LIMIT, 413)):
        body = sized(size)
        step = -(-size // pieces)
        cut = [body[start : start + step] for start in range(0, size, step)]
        answer = ask(app, "POST", "/test/echo", headers=headers, body=cut)
        expected = 413 if declared == "9" * 40 else status
        assert answer.status == expected
        if expected == 413:
            assert answer.error["code"] == "request_too_large"


@pytest.mark.parametrize("value", ["0", "1", "1023", "-5"])
def test_a_limit_that_lets_nothing_through_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(UsageError):
        resolve(ServeSettings, ["--max_body_bytes", value], {})


def test_a_declared_size_is_refused_before_it_arrives() -> None:
    app = server_app(max_body_bytes=LIMIT)
    headers = [JSON, ("content-length", str(LIMIT + 1))]
    # Reading would wait for an hour.
    assert ask(app, "POST", "/test/echo", headers=headers, body=[]).status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("content-type", "application/json; charset=utf-8")], 200),
        ([("content-type", "APPLICATION/JSON")], 200),
        ([("content-type", "application/json"), ("content-encoding", "identity")], 200),
        ([], 415),
        ([("content-type", "text/plain")], 415),
        ([("content-type", "application/x-www-form-urlencoded")], 415),
        ([("content-type", "multipart/form-data; boundary=x")], 415),
        ([("content-type", "application/jsonp")], 415),
        ([("content-type", "application/json"), ("content-encoding", "gzip")], 415),
        ([("content-type", "application/json"), ("content-encoding", "deflate, br")], 415),
    ],
)
def test_only_plain_json_is_read(headers: list[tuple[str, str]], status: int) -> None:
    answer = ask(server_app(), "POST", "/test/echo", headers=headers, body=b"{}")
    assert answer.status == status


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested"),
        (b"[" * 1_000_000, "nested"),
        (b'{"text": NaN}', "NaN"),
        (b'{"count": -Infinity}', "Infinity"),
        ('{"text": "x"}'.encode("utf-16"), "UTF-8"),
        ('{"text": "x"}'.encode("utf-16-le"), "UTF-8"),
        ('{"text": "x"}'.encode("utf-32-be"), "UTF-8"),
        (b'{"text": "\xff"}', "UTF-8"),
        (b'{"text": "' + b"\\" * 100_001, "JSON"),
        (b'{"count": ' + b"9" * 100_000 + b"}", ""),
    ],
)
def test_what_parsers_choke_on_is_refused(body: bytes, says: str) -> None:
    with processor_time() as spent:
        answer = post(server_app(), "/test/echo", body)
    assert spent.seconds < 1
    assert answer.status == 400
    assert says in answer.error["message"]


def test_what_only_looks_dangerous_is_read() -> None:
    text = 'NaN [[[{{{ " \\ ' * 50
    answer = post(server_app(), "/test/echo", {"text": text})
    assert answer.json()["text"] == text


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(value=VALUES, wrapped=st.integers(0, MAX_DEPTH + 4), indent=st.sampled_from([None, 1]))
def test_the_scan_agrees_with_the_parser(value: Any, wrapped: int, indent: int | None) -> None:
    for _ in range(wrapped):
        value = [value]
    body = json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", "replace")
    try:
        check_json(body)
    except ApiError:
        assert depth_of(value) > MAX_DEPTH
    else:
        assert depth_of(value) <= MAX_DEPTH


@given(body=st.binary(max_size=40) | st.text('[]{}"\\,:1NaInfinity', max_size=30).map(str.encode))
def test_the_scan_passes_whatever_is_shallow_json(body: bytes) -> None:
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return
    check_json(body)
    assert depth_of(value) <= MAX_DEPTH


@pytest.mark.parametrize("unit", [b"[", b"[]", b"{}[]", b'"', b'\\"', b"\\", b'"[', b"NaN "])
def test_a_scan_takes_linear_time(unit: bytes) -> None:
    body = unit * (4 * 1024 * 1024 // len(unit))
    with processor_time() as spent, suppress(ApiError):
        check_json(body)
    assert spent.seconds < 1


def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.1)
    pieces = [b"{", *[b" "] * 100, b"}"]
    answer = ask(server_app(), "POST", "/test/echo", headers=[JSON], body=pieces, delay_s=0.02)
    assert answer.status == 408
    assert answer.headers["connection"] == "close"


def test_a_large_body_has_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(request_body, "SLOWEST_BYTES_PER_SECOND", 1000)
    body = sized(400)
    pieces = [body[start : start + 40] for start in range(0, 400, 40)]
    answer = ask(server_app(), "POST", "/test/echo", headers=[JSON], body=pieces, delay_s=0.02)
    assert answer.status == 200


def test_headers_are_bounded() -> None:
    app = server_app()
    for size, status in ((10_000, 200), (17_000, 431)):
        assert ask(app, "GET", "/health", headers=[("x-junk", "a" * size)]).status == status
    assert ask(app, "GET", "/health?" + "a" * 17_000).status == 431


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("header", [("transfer-encoding", "chunked"), ("content-length", "1")])
def test_a_body_that_no_route_reads_is_refused(method: str, header: tuple[str, str]) -> None:
    answer = ask(server_app(), method, "/health", headers=[header], body=[])
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert ask(server_app(), "GET", "/health", headers=[("content-length", "0")]).status == 200


def test_requests_of_one_key_are_bounded_and_others_are_not_disturbed() -> None:
    async def together() -> list[int]:
        release = asyncio.Event()
        waiting: list[int] = []
        router = APIRouter()

        @router.post("/test/wait")
        async def wait() -> None:
            waiting.append(1)
            await release.wait()

        state = ServerState.of(ServeSettings(max_requests_per_key=2), scripted_serving())
        app = create_app(state, keys=Keys.of(["one", "two"]))
        app.include_router(router)

        async def one(key: str) -> int:
            headers = [JSON, bearer(key)]
            answer = await ask_async(app, "POST", "/test/wait", headers=headers, body=b"{}")
            if answer.status == 429:
                assert int(answer.headers["retry-after"]) > 0
            return answer.status

        running = [asyncio.create_task(one(key)) for key in ("one", "one", "two")]
        while len(waiting) < 3:
            await asyncio.sleep(0)
        refused = await one("one")
        release.set()
        done = [await task for task in running]
        return [refused, *done, await one("one")]

    assert asyncio.run(together()) == [429, 200, 200, 200, 200]


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is below its own limit, and those that never end take no more than their part."""
    monkeypatch.setattr(limits, "memory_bytes", lambda: 0)

    async def together() -> list[int]:
        app = server_app(max_body_bytes=10_000)  # so 40,000 for all
        release = asyncio.Event()
        begun = 0

        async def unfinished() -> int:
            pieces = [sized(9_000)]

            async def receive() -> dict[str, Any]:
                nonlocal begun
                if pieces:
                    return {"type": "http.request", "body": pieces.pop(), "more_body": True}
                begun += 1
                await release.wait()
                return {"type": "http.request", "body": b"", "more_body": False}

            return (
                await ask_async(app, "POST", "/test/echo", headers=[JSON], receive=receive)
            ).status

        held = [asyncio.create_task(unfinished()) for _client in range(4)]
        while begun < 4:
            await asyncio.sleep(0)
        small = await ask_async(app, "POST", "/test/echo", headers=[JSON], body=sized(2_000))
        large = await ask_async(app, "POST", "/test/echo", headers=[JSON], body=sized(9_000))
        assert large.error["code"] == "busy"
        assert int(large.headers["retry-after"]) > 0
        release.set()
        statuses = [small.status, large.status, *[await task for task in held]]
        again = await ask_async(app, "POST", "/test/echo", headers=[JSON], body=sized(9_000))
        return [*statuses, again.status]

    assert asyncio.run(together()) == [200, 503, 200, 200, 200, 200, 200]


@pytest.mark.parametrize("log_prompts", [False, True])
def test_prompts_are_logged_only_on_request(
    log_prompts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = server_app(log_prompts=log_prompts)
    assert post(app, "/test/echo", {"text": "a private prompt"}).status == 200
    assert post(app, "/test/echo", {"count": "a private prompt"}).status == 400
    assert post(app, "/test/fail/bug", {"text": "a private prompt"}).status == 500
    assert ("private" in caplog.text) == log_prompts
