"""Clients that go away at any moment free everything; those that do not read stop nobody."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from danlu.engine.engine import Engine
from danlu.server.edge import limits
from danlu.server.state import Serving
from tests.helpers.figures import figure, slowest
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import (
    Recorded,
    application,
    raw_post,
    recorded,
    running,
    served,
    tiny_loaded,
)
from tests.helpers.waiting import PATIENCE_S, wait_until

CHAT = "/v1/chat/completions"
BODY = (
    b'{"messages": [{"role": "user", "content": "Tell me a long story."}], "ignore_eos": true, '
    b'"max_tokens": 3000, "n": 2, "stream": %s}'
)


Place = tuple[Serving, Recorded, str]


@pytest.fixture
def place() -> Iterator[Place]:
    """A server of the test's own: what another one has left running is not counted."""
    loaded = tiny_loaded()
    engine = Engine(loaded.model, tokenizer(), cache_tokens=8192)
    with served(engine, loaded=loaded, context_tokens=4096) as serving:
        app = application(serving)
        with running(app) as address:
            yield serving, recorded(app), address


def wait_until_free(serving: Serving) -> float:
    """How long it takes until nothing is running any more."""
    return wait_until(lambda: not serving.service.num_seats_taken)


@pytest.mark.parametrize("stream", [b"true", b"false"])
@pytest.mark.parametrize(
    "count", [25, pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_clients_that_go_at_random_moments(place: Place, stream: bytes, count: int) -> None:
    serving, figures, address = place
    moments = random.Random(7)
    longest = 0.0
    for _client in range(count):
        with raw_post(address, CHAT, BODY % stream):
            time.sleep(moments.uniform(0.0, 0.08))
        longest = max(longest, wait_until_free(serving))
    good = httpx.post(
        address + "/v1/completions", json={"prompt": "The fox", "max_tokens": 4}, timeout=PATIENCE_S
    )
    assert good.status_code == 200
    longest = max(longest, wait_until_free(serving))
    engine = serving.service.call(lambda engine: engine.figures()).result()
    assert engine.num_running == engine.num_waiting == 0
    assert engine.cache_usage == 0.0
    # None was computed to its end, but the one that was waited for.
    assert [reason for reason, *_tokens in figures.finished[:-1]] == ["abort"] * (
        len(figures.finished) - 1
    )
    figure("clients that went away", count)
    slowest("until their seats were free", longest)


def test_a_client_that_goes_at_once(place: Place) -> None:
    serving, _figures, address = place
    for _client in range(5):
        raw_post(address, CHAT, BODY % b"true").close()
    wait_until_free(serving)


def test_half_a_body_takes_no_seat(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    serving, _figures, address = place
    begun, ended = threading.Event(), threading.Event()
    real = limits.read_json

    async def noted(*words: Any, **named: Any) -> bytes:
        begun.set()
        try:
            return await real(*words, **named)
        finally:
            ended.set()

    monkeypatch.setattr(limits, "read_json", noted)
    with raw_post(address, CHAT, b"{", length=1000):
        assert begun.wait(PATIENCE_S)
        assert serving.service.num_seats_taken == 0
        assert not ended.is_set()
    assert ended.wait(PATIENCE_S)
    assert serving.service.num_seats_taken == 0


def test_a_client_that_does_not_read_holds_up_nobody(place: Place) -> None:
    serving, _figures, address = place
    body = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "stream": True, "n": 4}
    with raw_post(address, "/v1/completions", json.dumps(body).encode()):
        wait_until(lambda: serving.service.num_seats_taken)
        answer = httpx.post(
            address + "/v1/completions", json={"prompt": "a", "max_tokens": 4}, timeout=PATIENCE_S
        )
        assert answer.status_code == 200
        assert serving.service.num_seats_taken > 0
    wait_until_free(serving)
