"""Bodies of megabytes that are wrong: refused soon, with one error, on a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import pytest
from starlette.testclient import TestClient

from danlu.server.edge.long_bodies import LongBodyRoute
from danlu.text.tokenizer import Tokenizer
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, client_for, served, tiny_loaded
from tests.helpers.serving.served import running as running_server
from tests.helpers.timing import processor_time
from tests.helpers.waiting import PATIENCE_S

CHAT = "/v1/chat/completions"
HELLO = '"messages": [{"role": "user", "content": "Hi"}]'


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    engine = ScriptedEngine(tokenizer(), lambda _request: "Fine.")
    with served(engine, loaded=tiny_loaded(), context_tokens=100_000) as serving:
        yield client_for(serving)


def fields(number: int, value: str = "1") -> str:
    return ", ".join(f'"u{place}": {value}' for place in range(number))


def messages(number: int, others: int) -> str:
    one = '{"role": "user", "content": "Hi", ' + fields(others) + "}"
    return f'{{"messages": [{", ".join([one] * number)}]}}'


def post(client: TestClient, path: str, body: str) -> tuple[int, dict[str, Any]]:
    headers = {"content-type": "application/json"}
    answer = client.post(path, content=body.encode(), headers=headers)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/load_lora_adapter", f"{{{fields(250_000)}}}"),
        ("/v1/load_lora_adapter", f"{{{fields(30_000)}}}"),
        ("/tokenize", f"{{{fields(250_000)}}}"),
        (CHAT, f"{{{HELLO}, {fields(250_000)}}}"),
        (CHAT, f"{{{HELLO}, {fields(30_000)}}}"),
        (CHAT, f'{{{HELLO}, "logit_bias": {{{fields(250_000)}}}}}'),
        (CHAT, f'{{{HELLO}, "logit_bias": {{{fields(30_000)}}}}}'),
        (CHAT, messages(300, 130)),
        (CHAT, f'{{{HELLO}, "metadata": [{", ".join(["[]"] * 900_000)}]}}'),
        ("/detokenize", f'{{"tokens": [{",".join(["1"] * 1_500_000)}]}}'),
        (CHAT, f'{{{HELLO}, "{"e" * 4_000_000}": 1}}'),
        (CHAT, f'{{{HELLO}, "{chr(0x2028) * 1_300_000}": 1}}'),
    ],
)  # fmt: skip
def test_what_is_wrong_in_many_ways_is_refused_soon(
    client: TestClient, path: str, body: str
) -> None:
    with processor_time() as spent:
        status, answer = post(client, path, body)
    assert spent.seconds < 0.7
    assert status == 400
    assert len(answer["error"]["message"]) <= 2000


def test_a_long_body_is_validated_elsewhere_than_on_the_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[bool] = []
    real = LongBodyRoute._validated

    def noted(self: LongBodyRoute, body: bytes) -> Any:
        with pytest.raises(RuntimeError):  # no loop runs on this thread
            asyncio.get_running_loop()
        loops.append(False)
        return real(self, body)

    monkeypatch.setattr(LongBodyRoute, "_validated", noted)
    text = '"content": "' + "word " * 20_000 + '"'
    for wrong, param, code in (
        ('"temperature": -1', "temperature", None),
        ('"temprature": 1', "temprature", None),
        ('"temperature": 1,', None, "invalid_json"),
    ):
        status, answer = post(
            client, CHAT, f'{{"messages": [{{"role": "user", {text}}}], {wrong}}}'
        )
        assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)
    assert len(loops) == 3
    status, _answer = post(client, "/tokenize", f'{{"messages": [{{"role": "user", {text}}}]}}')
    assert (status, len(loops)) == (200, 4)


LONG = json.dumps("1" * 3_900_000)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, f'{{"messages": [{{"role": "user", "content": {LONG}}}]}}'),
        ("/v1/completions", f'{{"prompt": {LONG}}}'),
        ("/tokenize", f'{{"prompt": {LONG}}}'),
        ("/tokenize", f'{{"messages": [{{"role": "user", "content": {LONG}}}]}}'),
    ],
)
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, body: str
) -> None:
    real = Tokenizer.encode_text

    def short_only(self: Tokenizer, text: str) -> list[int]:
        assert len(text) < 1000
        return real(self, text)

    monkeypatch.setattr(Tokenizer, "encode_text", short_only)
    status, answer = post(client, path, body)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert answer["error"]["n_prompt_tokens"] > answer["error"]["n_ctx"] == 100_000


def test_long_texts_leave_threads_for_others(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are threads would keep every chat waiting."""
    at_once: list[int] = []
    running = threading.Semaphore(0)
    release = threading.Event()
    real = Tokenizer.encode_text

    def slow(self: Tokenizer, text: str) -> list[int]:
        if len(text) > 50_000:
            at_once.append(1)
            running.release()
            assert release.wait(PATIENCE_S)
        return real(self, text)

    monkeypatch.setattr(Tokenizer, "encode_text", slow)
    body = {"prompt": "many words " * 8_000}
    with running_server(cast(Any, client.app)) as address, ThreadPoolExecutor(50) as pool:

        def ask(what: dict[str, str]) -> int:
            return httpx.post(f"{address}/tokenize", json=what, timeout=60).status_code

        long = [pool.submit(ask, body) for _client in range(40)]
        for _thread in range(2):
            assert running.acquire(timeout=PATIENCE_S)
        assert ask({"prompt": "a few words"}) == 200
        assert len(at_once) == 2
        release.set()
        assert {answer.result() for answer in long} == {200}
