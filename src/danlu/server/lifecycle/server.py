"""The server's life: listen, load, answer, drain, end.

The model loads on a thread while the port answers already (503, and /health). A signal ends it: no
new requests, `--drain_s` seconds for those that run, then their answers end with an error.
Must not know routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import uvicorn

from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.ops import ops_table
from danlu.say import say
from danlu.server.edge.connections import ACCEPTED_AT_ONCE, IDLE_SECONDS, connection_class
from danlu.server.edge.keys import Keys
from danlu.server.edge.logs import log_to_stderr
from danlu.server.front import Front
from danlu.server.lifecycle.app import create_app
from danlu.server.lifecycle.listening import BACKLOG, url_of
from danlu.server.lifecycle.opening import describe, name_of, open_serving
from danlu.server.settings import ServeSettings
from danlu.server.state import ServerState, Serving

# After the last answer was cut off, clients have this long to read what was sent.
_LAST_SECONDS = 5
# A server whose engine has failed says so on /health for a while before it ends.
_FAILED_SECONDS = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_log = logging.getLogger(__name__)


def serve(settings: ServeSettings, keys: Keys, listener: socket.socket) -> None:
    """Serve until a signal comes.

    Raises UsageError for settings that do not fit together, what loading raises, and RuntimeError
    where the engine fails.
    """
    state = ServerState.of(settings)
    name_of(settings, state.adapter_folders)
    log_to_stderr()
    with MovingLine(_("Loading the model")) as line:
        server = Server(state, keys, url=url_of(listener), line=line)
        line.say(_("{url}: loading the model").format(url=server.url))
        server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


class Server(uvicorn.Server):
    """uvicorn's server, which loads the model in the background and drains at the end.

    line: shows the loading.
    """

    def __init__(
        self,
        state: ServerState,
        keys: Keys,
        *,
        url: str,
        line: MovingLine,
        front: Front | None = None,
    ) -> None:
        self.app = create_app(state, keys=keys, front=front)
        super().__init__(
            uvicorn.Config(
                self.app,
                http=connection_class(),
                backlog=ACCEPTED_AT_ONCE,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=int(state.settings.drain_s) + _LAST_SECONDS,
            )
        )
        self.url, self._line = url, line
        self.failure: BaseException | None = None
        self._state = state
        self._failed_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on the port, then begin to load."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # more may wait than are taken in one go
        loop = asyncio.get_running_loop()
        # A daemon: a model that is still loading does not keep the process from ending.
        threading.Thread(target=self._load, args=(loop,), name="loading", daemon=True).start()

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        state = self._state
        then: Callable[[], None]
        try:
            serving = open_serving(state.settings, state.adapter_folders, self._show)
            then = partial(self._begin, serving)
            self.app.openapi()  # kept from here on; it would stop all others for 0.3 seconds
        except BaseException as problem:
            then = partial(self._fail, problem)
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(then)

    def _show(self, what: str, done: int, total: int) -> None:
        """Show how far the loading is; called on its thread."""
        self._line.show(what, done, total)

    def _fail(self, problem: BaseException) -> None:
        self._line.stop()
        self.failure = problem
        self.should_exit = True

    def _begin(self, serving: Serving) -> None:
        self._line.stop()
        self._state.serving = serving
        say(*self._ready_lines(serving))

    def _ready_lines(self, serving: Serving) -> list[str]:
        model = next(iter(serving.adapters), serving.name)
        table = ops_table(serving.assistant.loaded.device.torch_device)
        return [
            _("{url}: ready").format(url=self.url),
            *describe(serving),
            _example(self.url, model, key=_shown_key(self._state.settings)),
            *table.describe(),
            _("Ctrl-C stops the server."),
        ]

    async def on_tick(self, counter: int) -> bool:
        """End a server whose engine has failed, so that a supervisor starts it again."""
        serving = self._state.serving
        if serving is not None and not serving.service.is_alive:
            self._failed_at = self._failed_at or time.monotonic()
            if time.monotonic() > self._failed_at + _FAILED_SECONDS:
                self._fail(RuntimeError("the engine's thread has ended; the log says why"))
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and wait for those that run."""
        self._state.is_stopping = True
        draining = asyncio.create_task(self._drain())
        await super().shutdown(sockets)
        await draining

    async def _drain(self) -> None:
        if self._state.serving is None:
            return
        service = self._state.serving.service
        if service.num_seats_taken:
            _log.info("waiting for %d requests", service.num_seats_taken)
        deadline = time.monotonic() + self._state.settings.drain_s
        while service.num_seats_taken and service.is_alive and not self.force_exit:
            if time.monotonic() > deadline:
                _log.info("cutting off %d requests", service.num_seats_taken)
                break
            await asyncio.sleep(0.05)
        await asyncio.to_thread(service.stop)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals, so that a server that was asked to stop exits with 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _shown_key(settings: ServeSettings) -> str:
    """Write the key as a shell finds it, not itself: the screen may be seen by others."""
    if settings.api_key_file:
        file = Path(settings.api_key_file).expanduser().absolute()
        return f"$(head -n 1 {shlex.quote(str(file))})"
    if settings.api_key is not None:
        return "$DANLU_API_KEY" if "DANLU_API_KEY" in os.environ else "KEY"
    return ""


def _example(url: str, model: str, *, key: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    words = ["curl", f"{url}/v1/chat/completions", "-H", "content-type: application/json"]
    words += ["-d", json.dumps(body, ensure_ascii=False)]
    return shlex.join(words) + (f' -H "authorization: Bearer {key}"' if key else "")
