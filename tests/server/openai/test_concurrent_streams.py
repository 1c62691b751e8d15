"""Many clients at once: every stream is its own, /health answers, and one too many is told so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import httpx
import pytest

from danlu.engine.engine import Engine
from danlu.engine.request import Request
from tests.helpers.figures import figure, slowest
from tests.helpers.models.tiny_engine import tokenizer
from tests.helpers.serving.served import ScriptedEngine, application, running, served, tiny_loaded
from tests.helpers.serving.sse import DONE, events_of
from tests.helpers.waiting import PATIENCE_S


def body(index: int) -> dict[str, object]:
    """A prompt with a beginning that others share and a part of its own."""
    prompt = f"The fox number {index % 7} jumps over {index}, and then"
    return {"prompt": prompt, "max_tokens": 5 + index % 11, "temperature": 0}


async def streamed(client: httpx.AsyncClient, index: int) -> str:
    reply = await client.post("/v1/completions", json={**body(index), "stream": True})
    assert reply.status_code == 200, reply.text
    *chunks, last = events_of(reply.text)
    assert last == DONE
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"][0]["finish_reason"] in ("length", "stop")
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


async def healthy(client: httpx.AsyncClient, until: asyncio.Event) -> list[float]:
    waits = []
    while not until.is_set():
        begun = time.perf_counter()
        assert (await client.get("/health")).status_code == 200
        waits.append(time.perf_counter() - begun)
        await asyncio.sleep(0.02)
    return waits


@pytest.mark.parametrize(
    "count", [100, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_every_stream_is_the_answer_it_would_be_alone(count: int) -> None:
    loaded = tiny_loaded()

    async def all_at_once(address: str) -> tuple[list[str], list[float]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
            done = asyncio.Event()
            watch = asyncio.create_task(healthy(client, done))
            texts = await asyncio.gather(*(streamed(client, index) for index in range(count)))
            done.set()
            return list(texts), await watch

    # Less than half of them fit at once: some are preempted or wait.
    engine = Engine(loaded.model, tokenizer(), cache_tokens=1600)
    with served(engine, loaded=loaded, num_seats=count) as serving:
        with running(application(serving)) as address:
            texts, waits = asyncio.run(all_at_once(address))
        assert serving.service.num_seats_taken == 0
        assert serving.service.figures().cache_usage == 0
    with (
        served(loaded=loaded) as serving,
        running(application(serving)) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        for index, text in enumerate(texts):
            alone = client.post("/v1/completions", json=body(index)).json()
            assert text == alone["choices"][0]["text"], index
    figure("concurrent streams", count)
    slowest("for /health beside them (99 of 100)", sorted(waits)[int(0.99 * (len(waits) - 1))])


def test_beyond_the_seats_clients_are_told_at_once() -> None:
    refused, go_on = [], threading.Event()

    async def all_at_once(address: str) -> list[int]:
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_S) as client:

            async def one(index: int) -> int:
                reply = await client.post("/v1/completions", json=body(index))
                if reply.status_code == 429:
                    refused.append(reply)
                if len(refused) == 36:
                    go_on.set()  # no answer was waited for
                return reply.status_code

            return await asyncio.gather(*(one(index) for index in range(40)))

    def held(_request: Request) -> str:
        assert go_on.wait(PATIENCE_S)
        return "Fine."

    engine = ScriptedEngine(tokenizer(), held)
    with served(engine, num_seats=4) as serving, running(application(serving)) as address:
        statuses = asyncio.run(all_at_once(address))
    assert Counter(statuses) == {200: 4, 429: 36}
    for reply in refused:
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["code"]
