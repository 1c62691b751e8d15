"""The server's life: loading, ready, failing, draining. Real sockets, a scripted engine."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.responses import StreamingResponse

from danlu.errors import EnvironmentFault, UsageError
from danlu.moving_line import MovingLine
from danlu.server.edge.keys import Keys
from danlu.server.lifecycle import server as run_module
from danlu.server.lifecycle.listening import listen, url_of
from danlu.server.lifecycle.server import Server
from danlu.server.settings import ServeSettings
from danlu.server.state import ServerState
from tests.helpers.serving.server import ScriptedService, scripted_serving
from tests.helpers.waiting import PATIENCE_S, until

Ask = Callable[..., Coroutine[Any, Any, tuple[int, bytes]]]


class Life:
    """A server on a free port whose model is ready when `model_is_ready` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.service = ScriptedService()
        self.model_is_ready = threading.Event()
        self.trouble: BaseException | None = None
        self.release = asyncio.Event()
        self.has_ended = False
        monkeypatch.setattr(run_module, "open_serving", self._open)
        monkeypatch.setattr(run_module, "describe", lambda serving: [])
        self.settings = ServeSettings(port=0, **settings)
        self.listener = listen("127.0.0.1", 0)
        self.server = Server(
            ServerState.of(self.settings), Keys(), url=url_of(self.listener), line=MovingLine()
        )
        self.server.app.include_router(self._router())
        self.address = self.listener.getsockname()

    def _open(self, *_words: Any) -> Any:
        self.model_is_ready.wait(PATIENCE_S)
        if self.trouble is not None:
            raise self.trouble
        return scripted_serving(self.service)

    def _router(self) -> APIRouter:
        """An answer of two pieces, the second when it is released or cut off."""
        router = APIRouter()

        @router.post("/test/stream")
        async def stream() -> StreamingResponse:
            self.service.num_seats_taken += 1

            async def pieces() -> Any:
                yield b"first "
                while self.service.num_seats_taken and not self.release.is_set():
                    await asyncio.sleep(0.01)
                yield b"aborted" if not self.release.is_set() else b"finished"
                self.service.num_seats_taken = 0

            return StreamingResponse(pieces())

        return router

    async def ask(self, method: str, path: str, body: bytes = b"{}") -> tuple[int, bytes]:
        body = b"" if method == "GET" else body
        reader, writer = await asyncio.open_connection(*self.address)
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]

    def live(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the server and a scenario; the scenario ends it."""

        async def together() -> None:
            serving = asyncio.create_task(self._serve())
            await until(lambda: self.server.started)
            try:
                await scenario()
            finally:
                self.model_is_ready.set()
                self.signal()
            await asyncio.wait_for(serving, PATIENCE_S)

        asyncio.run(together())
        self.listener.close()
        # A server that ends does not wait for what it loads; the next test must not meet it.
        for thread in threading.enumerate():
            if thread.name == "loading":
                thread.join(PATIENCE_S)
        if self.server.failure is not None and self.server.failure is not self.trouble:
            assert not self.service.is_alive, self.server.failure

    async def _serve(self) -> None:
        await self.server.serve([self.listener])
        self.has_ended = True

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    async def until_ready(self) -> None:
        self.model_is_ready.set()
        while (await self.ask("GET", "/ready"))[0] != 200:
            await asyncio.sleep(0.01)

    async def until_closed(self) -> None:
        with suppress(ConnectionError):
            while True:
                await self.ask("GET", "/health")


def test_while_it_loads_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    life = Life(monkeypatch)

    async def scenario() -> None:
        assert await life.ask("GET", "/health") == (200, b'{"status":"loading"}')
        status, body = await life.ask("POST", "/test/stream")
        assert (status, json.loads(body)["error"]["code"]) == (503, "loading")
        await life.until_ready()
        assert await life.ask("GET", "/health") == (200, b'{"status":"ok"}')

    life.live(scenario)
    assert life.server.failure is None
    printed = capsys.readouterr().out
    assert f"{life.server.url}: ready" in printed
    assert f"curl {life.server.url}/v1/chat/completions" in printed
    assert life.service.stopped_with == [0]


def test_who_sends_too_much_can_read_that_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch)

    async def scenario() -> None:
        await life.until_ready()
        status, body = await life.ask("POST", "/test/stream", b" " * 8 * 1024 * 1024)
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")

    life.live(scenario)


def test_what_loading_raises_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch)
    life.trouble = UsageError("no model", why="why", fix="fix")

    async def scenario() -> None:
        life.model_is_ready.set()
        await until(lambda: life.server.should_exit)

    life.live(scenario)
    assert life.server.failure is life.trouble


def test_a_signal_while_loading_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch)

    async def scenario() -> None:
        life.signal()
        await until(lambda: life.has_ended)
        assert not life.model_is_ready.is_set()

    life.live(scenario)
    assert life.service.stopped_with == []


@pytest.mark.parametrize(
    ("drain_s", "released", "ends"), [(10.0, True, b"finished"), (0.3, False, b"aborted")]
)
def test_running_answers_come_to_a_proper_end(
    monkeypatch: pytest.MonkeyPatch, drain_s: float, released: bool, ends: bytes
) -> None:
    life = Life(monkeypatch, drain_s=drain_s)

    async def scenario() -> None:
        await life.until_ready()
        running = asyncio.create_task(life.ask("POST", "/test/stream"))
        await until(lambda: life.service.num_seats_taken)
        life.signal()
        await life.until_closed()
        if released:
            assert not life.service.stopped_with  # it still has time
            life.release.set()
        status, body = await running
        assert status == 200
        assert b"first" in body
        assert ends in body
        assert body.endswith(b"0\r\n\r\n")  # the last chunk: the answer is complete

    life.live(scenario)
    assert life.service.stopped_with == [0 if released else 1]


def test_the_port_is_free_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch)
    life.live(life.until_ready)
    port = life.address[1]
    listen("127.0.0.1", port).close()


def test_a_failed_engine_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_FAILED_SECONDS", 0.5)
    life = Life(monkeypatch)

    async def scenario() -> None:
        await life.until_ready()
        life.service.is_alive = False
        assert (await life.ask("GET", "/health"))[0] == 503
        await until(lambda: life.server.should_exit)

    life.live(scenario)
    assert isinstance(life.server.failure, RuntimeError)


def test_a_port_in_use_is_said() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFault) as caught:
            listen("127.0.0.1", port)
    assert f"--port {port + 1}" in str(caught.value)


@pytest.mark.parametrize("host", ["203.0.113.7", "256.1.1.1", "no host", "a" * 300])
def test_an_address_of_others_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_words: Any, **_named: Any) -> Any:
        raise socket.gaierror("not known")

    if host != "203.0.113.7":
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    else:
        monkeypatch.undo()
    with pytest.raises(UsageError):
        listen(host, 0)


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:")]
)
def test_the_address_that_is_shown(host: str, url: str) -> None:
    with listen(host, 0) as taken:
        assert url_of(taken) == f"{url}{taken.getsockname()[1]}"
