"""Many clients at once: each gets its own answer, and none waits for one that does not read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
import pytest

from danlu.engine.request import Request, SamplingSettings
from danlu.server.state import Serving
from tests.helpers import tiny_engine
from tests.helpers.figures import figure
from tests.helpers.served import application, raw_post, running, served
from tests.helpers.sse import DONE, events_of
from tests.helpers.tiny_engine import random_prompt, tokenizer


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Serving, str]]:
    with served(num_seats=1024) as serving, running(application(serving)) as address:
        yield serving, address


async def stream(client: httpx.AsyncClient, prompt: tuple[int, ...]) -> str:
    """The text that a client puts together from the events it gets."""
    body = {"prompt": list(prompt), "max_tokens": 10, "stream": True}
    response = await client.post("/v1/completions", json=body)
    *chunks, done = events_of(response.text)
    assert done == DONE
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


@pytest.mark.parametrize(
    "count", [100, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_every_stream_brings_its_own_answer(place: tuple[Serving, str], count: int) -> None:
    serving, address = place
    kinds = [random_prompt(seed) for seed in range(20)]

    async def ask() -> list[str]:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=600) as client:
            calls = [stream(client, kinds[index % len(kinds)]) for index in range(count)]
            return await asyncio.gather(*calls)

    sampling = SamplingSettings(temperature=0.0, max_tokens=10)
    ends = frozenset({tokenizer().control_id("<|im_end|>")})
    expected = [
        tiny_engine.text_of(
            tiny_engine.alone(Request(prompt=kind, sampling=sampling, end_token_ids=ends))
        )
        for kind in kinds
    ]
    answers = asyncio.run(ask())
    assert answers == [expected[index % len(kinds)] for index in range(count)]
    assert serving.service.num_seats_taken == 0
    figure("streams at once", count)


def test_a_client_that_does_not_read_holds_up_nobody(place: tuple[Serving, str]) -> None:
    serving, address = place
    body = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "stream": True, "n": 4}
    with raw_post(address, "/v1/completions", json.dumps(body).encode()):
        time.sleep(0.2)
        answer = httpx.post(
            address + "/v1/completions", json={"prompt": "a", "max_tokens": 4}, timeout=20
        )
        assert answer.status_code == 200
        assert serving.service.num_seats_taken > 0
    deadline = time.monotonic() + 10
    while serving.service.num_seats_taken:
        assert time.monotonic() < deadline
        time.sleep(0.01)
