"""R31: adapters come and go while requests run with them; every answer is its adapter's own."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request
from danlu.engine.service import EngineService
from danlu.files.committed import committed_folder
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import LoraConfig
from danlu.lora.peft_files import write_adapter
from danlu.server.edge.gate import serving_of
from tests.helpers.figures import figure
from tests.helpers.models.packed import random_adapter
from tests.helpers.models.tiny_engine import GREEDY, random_prompt, run_all, tokens_of
from tests.helpers.serving.server import JSON, ask_async, scripted_serving, server_app
from tests.helpers.training.trainers import loaded_tiny

KINDS = 4


def write_shelf(folder: Path, base: LoadedModel) -> None:
    for kind in range(KINDS):
        adapter = random_adapter(LoraConfig(r=4), base.config, seed=kind)
        with committed_folder(folder / f"kind{kind}") as draft:
            write_adapter(draft, adapter, base_model="tiny")


async def answer(service: EngineService, request: Request) -> list[int]:
    """Ask the engine's thread; the tokens of the answer."""
    loop = asyncio.get_running_loop()
    outputs: asyncio.Queue[Output] = asyncio.Queue()
    assert service.reserve()
    service.submit(request, lambda out: loop.call_soon_threadsafe(outputs.put_nowait, out) and None)
    tokens: list[int] = []
    while True:
        output = await outputs.get()
        assert output.error is None
        tokens += output.tokens
        if output.finish_reason is not None:
            return tokens


@pytest.mark.parametrize("loads", [50, pytest.param(1000, marks=pytest.mark.soak)])
def test_adapters_come_and_go(tmp_path: Path, loads: int) -> None:
    base = loaded_tiny(tmp_path / "model")
    write_shelf(tmp_path / "shelf", base)
    service = EngineService(Engine(base.model, base.tokenizer), num_seats=1000)
    app = server_app(serving=scripted_serving(service, base), adapter_dir=str(tmp_path / "shelf"))
    adapters = serving_of(app).adapters
    asked: list[tuple[int, Request, asyncio.Task[list[int]]]] = []
    seen: list[weakref.ref[Any]] = []

    async def change(verb: str, **body: str) -> int:
        raw = json.dumps(body).encode()
        path = f"/v1/{verb}_lora_adapter"
        return (await ask_async(app, "POST", path, headers=[JSON], body=raw)).status

    async def come_and_go(number: int) -> None:
        kind = number % KINDS
        name = f"adapter{number}"
        assert await change("load", lora_name=name, lora_path=f"kind{kind}") == 200
        adapter = adapters[name].adapter
        seen.append(weakref.ref(adapter))
        for _ in range(2):
            prompt = random_prompt(len(asked) % 7)
            request = Request(prompt=prompt, sampling=GREEDY, adapter=adapter)
            asked.append((kind, request, asyncio.create_task(answer(service, request))))
        await asyncio.sleep(0)
        assert await change("unload", lora_name=name) == 200
        assert await change("unload", lora_name=name) == 404

    async def traffic() -> None:
        for start in range(0, loads, 5):
            await asyncio.gather(*map(come_and_go, range(start, min(start + 5, loads))))
        await asyncio.gather(*(task for _kind, _request, task in asked))

    service.start()
    asyncio.run(traffic())
    assert len(asked) == 2 * loads
    reference: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for kind, request, task in asked:
        if (kind, request.prompt) not in reference:
            outputs = run_all(Engine(base.model, base.tokenizer), [request])
            reference[kind, request.prompt] = tokens_of(outputs[0])
        assert task.result() == reference[kind, request.prompt]
    different = {tuple(tokens) for tokens in reference.values()}
    assert len(different) > 7  # the adapters do change the answers
    del request, task
    asked.clear()
    assert service.figures().cache_usage == 0
    service.stop()
    gc.collect()
    assert not any(one() for one in seen)  # nothing is kept of those that have gone
    assert not adapters
    figure("adapters loaded and unloaded under traffic", loads)
