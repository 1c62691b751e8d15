"""A model that is served: the routes in an application of their own, and a server on a thread."""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from danlu.device.detect import select
from danlu.dialog.assistant import Assistant
from danlu.dialog.dialog import Dialog
from danlu.dialog.events import Usage
from danlu.engine.engine import Engine, Figures
from danlu.engine.request import (
    Deliver,
    Output,
    PromptProgress,
    RequestId,
    SamplingSettings,
    TokenLogprobs,
)
from danlu.engine.request import Request as EngineRequest
from danlu.engine.service import EngineService
from danlu.hub.load import LoadedModel
from danlu.hub.prompting import Prompting
from danlu.server.lifecycle.app import create_app
from danlu.server.prometheus import PrometheusFigures
from danlu.server.served_adapters import ServedAdapter
from danlu.server.settings import ServeSettings
from danlu.server.state import ServerState, Serving, state_of
from danlu.text.detokenize import Detokenizer
from danlu.text.stop import StopFinder
from danlu.text.tokenizer import Tokenizer
from tests.helpers.models import tiny_engine

DEFAULTS = SamplingSettings(temperature=0.0)


class Recorded(PrometheusFigures):
    """The figures, and what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.started = self.first_tokens = self.tokens = 0
        self.finished: list[tuple[str, int, int, int]] = []

    def request_started(self) -> None:
        super().request_started()
        self.started += 1

    def first_token(self, seconds: float) -> None:
        super().first_token(seconds)
        self.first_tokens += 1

    def token(self, seconds: float) -> None:
        super().token(seconds)
        self.tokens += 1

    def request_finished(self, reason: str, usage: Usage, *, seconds: float) -> None:
        super().request_finished(reason, usage, seconds=seconds)
        tokens = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens
        self.finished.append((reason, *tokens))


class ScriptedEngine:
    """Answers as told, a token a step: `script` gives each request's text, or raises.

    One that raises while the engine adds the request refuses it; a text may be longer than the
    request's max_tokens. What was asked for is in `requests`; a step takes `step_seconds`, and
    reads `tokens_per_step` of a prompt before the answer begins.
    """

    step_seconds = 0.0
    tokens_per_step = 100_000

    def __init__(
        self, tokenizer: Tokenizer, script: Callable[[EngineRequest], str | Exception]
    ) -> None:
        self.requests: list[EngineRequest] = []
        self._tokenizer, self._script = tokenizer, script
        self._answers: dict[RequestId, tuple[Iterator[Output], Deliver]] = {}
        self._ids = itertools.count()

    @property
    def num_unfinished(self) -> int:
        return len(self._answers)

    def figures(self) -> Figures:
        return Figures(
            num_running=len(self._answers), num_waiting=0, cache_usage=0.0, num_preemptions=0
        )

    def prepare(self, request: EngineRequest) -> EngineRequest:
        return request

    def new_id(self) -> RequestId:
        return RequestId(next(self._ids))

    def add(
        self, request: EngineRequest, deliver: Deliver, *, request_id: RequestId | None = None
    ) -> RequestId:
        answer = self._script(request)
        request_id = self.new_id() if request_id is None else request_id
        self.requests.append(request)
        self._answers[request_id] = self._outputs(request_id, request, answer), deliver
        return request_id

    def abort(self, request_id: RequestId) -> None:
        if request_id in self._answers:
            _outputs, deliver = self._answers.pop(request_id)
            deliver(Output(request_id=request_id, finish_reason="abort"))

    def step(self) -> None:
        time.sleep(self.step_seconds)
        for request_id, (outputs, deliver) in list(self._answers.items()):
            output = next(outputs)
            if output.finish_reason is not None:
                del self._answers[request_id]
            deliver(output)

    def _outputs(
        self, request_id: RequestId, request: EngineRequest, answer: str | Exception
    ) -> Iterator[Output]:
        if isinstance(answer, Exception):
            yield Output(request_id=request_id, finish_reason="error", error=answer)
            return
        for read in range(self.tokens_per_step, len(request.prompt), self.tokens_per_step):
            progress = PromptProgress(num_read=read, num_found=0)
            yield Output(request_id=request_id, progress=progress)
        detokenizer, stops = Detokenizer(self._tokenizer), StopFinder(request.sampling.stop)
        limit = request.sampling.max_tokens or 10_000
        for place, token in enumerate(self._tokenizer.encode_text(answer)):
            text, stopped = stops.feed(detokenizer.feed(token))
            reason = "stop" if stopped else "length" if place + 1 == limit else None
            yield Output(
                request_id=request_id,
                tokens=(token,),
                text=text,
                logprobs=_logprobs(token, request.sampling.logprobs),
                finish_reason=reason,  # type: ignore[arg-type]
            )
        end = min(request.end_token_ids)
        yield Output(
            request_id=request_id,
            tokens=(end,),
            text=stops.finish(),
            logprobs=_logprobs(end, request.sampling.logprobs),
            finish_reason="stop",
        )


def _logprobs(token: int, number: int | None) -> tuple[TokenLogprobs, ...]:
    """Made up: the token at -0.25, and others of which the second is impossible."""
    if number is None:
        return ()
    others = ((token, -0.25), (5, -1.0), (6, -math.inf), *((7 + i, -2.0 - i) for i in range(20)))
    return (TokenLogprobs(token=token, logprob=-0.25, top=others[:number]),)


def tiny_loaded() -> LoadedModel:
    """The tiny model as a loaded one."""
    model = tiny_engine.model()
    return LoadedModel(
        name="tiny",
        folder=Path("tiny"),
        config=model.config,
        model=model,
        tokenizer=tiny_engine.tokenizer(),
        fingerprint="",
        device=select("cpu"),
    )


@contextmanager
def served(
    engine: Engine | ScriptedEngine | None = None,
    *,
    loaded: LoadedModel | None = None,
    num_seats: int = 64,
    adapters: Mapping[str, ServedAdapter] | None = None,
    defaults: SamplingSettings = DEFAULTS,
    context_tokens: int = 4096,
    enable_thinking: bool | None = True,
    template: str = "qwen3",
) -> Iterator[Serving]:
    """Serve a model; without an engine the tiny one."""
    loaded = loaded or tiny_loaded()
    real: Any = engine or Engine(loaded.model, loaded.tokenizer, cache_tokens=context_tokens)
    service = EngineService(real, num_seats=num_seats)
    service.start()
    prompting = Prompting(template=template, enable_thinking=enable_thinking)
    dialog = Dialog(
        real,
        loaded.tokenizer,
        template=prompting.template,
        enable_thinking=prompting.enable_thinking,
        end_token_ids=set(),
    )
    try:
        yield Serving(
            name="tiny",
            assistant=Assistant(loaded=loaded, engine=real, dialog=dialog, prompting=prompting),
            service=service,
            defaults={True: defaults, False: replace(defaults)},
            context_tokens=context_tokens,
            adapters=dict(adapters or {}),
        )
    finally:
        service.stop()


def application(serving: Serving, **settings: Any) -> FastAPI:
    """The whole application over a model, with figures that remember."""
    state = ServerState.of(ServeSettings(**settings), serving)
    state.figures = Recorded()
    return create_app(state)


def recorded(app: Any) -> Recorded:
    """What the figures of `application` were told."""
    figures = state_of(app).figures
    assert isinstance(figures, Recorded)
    return figures


def client_for(serving: Serving) -> TestClient:
    """Ask the application without a socket."""
    return TestClient(application(serving), base_url="http://127.0.0.1")


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Run a real server on a thread; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    loop = asyncio.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.serve(sockets=[listener]))
        loop.close()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def raw_post(address: str, path: str, body: bytes, *, length: int | None = None) -> socket.socket:
    """Send a request over a connection of one's own, to leave it when one likes."""
    where = urlsplit(address)
    connection = socket.create_connection((where.hostname or "", where.port or 0))
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection
