"""Bodies of megabytes that are wrong: refused soon, with one error, on a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.server.edge.long_bodies import LongBodyRoute
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, client_for, served, tiny_loaded

CHAT = "/v1/chat/completions"
HELLO = '"messages": [{"role": "user", "content": "Hi"}]'


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    engine = ScriptedEngine(tokenizer(), lambda _request: "Fine.")
    with served(engine, loaded=tiny_loaded()) as serving:
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
    began = time.process_time()
    status, answer = post(client, path, body)
    assert time.process_time() - began < 0.7
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
