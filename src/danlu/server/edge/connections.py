"""uvicorn's HTTP connections, with deadlines for slow clients and a bound on their number.

A client has a limited time to send the head of a request, and to read what is sent to it. Where
too many connections are open, the one that has been idle longest is closed, so that clients which
only hold connections open never keep others out. A request that is answered before its body has
arrived is the last of its connection, and the rest of it is not parsed. Must not know routes or the
engine.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.http_parser import HttpParser
from danlu.server.edge.limits import MAX_HEADER_BYTES

HEAD_SECONDS = 10.0
WRITE_SECONDS = 30.0
# Closed with bytes still coming in, an answer would be lost on its way to a client that reads it
# only once all is sent. So what comes is dropped for a while, a piece (up to 256 KiB) at a time.
LINGER_SECONDS = 5.0
_DROP_SECONDS = 0.01
IDLE_SECONDS = 30
_MOST_CONNECTIONS = 4096
# How many connections the event loop accepts at once; the process has further files open.
ACCEPTED_AT_ONCE = 100
_OTHER_FILES = 256
_CLOSE = (b"connection", b"close")


@lru_cache(maxsize=1)
def most_connections() -> int:
    """Return how many connections may be open, from the process's limit of open files."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(16, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))


class _LastingTransport:
    """A transport that is closed as its connection says: perhaps not at once."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(H11Protocol):
    """One client's connection.

    _idle: the server's connections without a request, in the order in which they became idle.
    _is_deaf: what still comes is dropped, and the connection ends with the answer.
    """

    _idle: ClassVar[dict[Connection, None]]

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self.conn: HttpParser = HttpParser(h11.SERVER, MAX_HEADER_BYTES)
        self.app = self._answer
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_deaf = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the first head; close an idle connection if there are too many."""
        super().connection_made(_LastingTransport(transport, self._close))  # type: ignore[arg-type]
        self._plain_transport = transport
        self._idle[self] = None
        self._start_timer("head", HEAD_SECONDS)
        if len(self.connections) > most_connections():
            # It is this one only if all others have requests.
            next(iter(self._idle))._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        super().connection_lost(exc)
        self._idle.pop(self, None)
        for name in list(self._timers):
            self._stop_timer(name)

    def data_received(self, data: bytes) -> None:
        """Start the deadline with the first bytes of a head, end it with the last."""
        if self._is_deaf:
            self.flow.pause_reading()
            self.loop.call_later(_DROP_SECONDS, self.flow.resume_reading)
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._idle.pop(self, None)
            self._stop_timer("head")
        elif "head" not in self._timers:
            self._start_timer("head", HEAD_SECONDS)

    def on_response_complete(self) -> None:
        """Count as idle, unless the next request has arrived already."""
        self._idle[self] = None
        super().on_response_complete()
        if not self.cycle.response_complete:
            self._idle.pop(self, None)

    def pause_writing(self) -> None:
        """Start the deadline of a client that reads too slowly."""
        super().pause_writing()
        self._start_timer("write", WRITE_SECONDS)

    def resume_writing(self) -> None:
        """Cancel that deadline: the client has read."""
        super().resume_writing()
        self._stop_timer("write")

    def shutdown(self) -> None:
        """End the connection when the server stops; who is only sending on is not waited for."""
        if "linger" in self._timers:
            self._abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in OpenAI's error shape too."""
        why = self.conn.refusal or _(
            "The request is no HTTP/1.1, or its headers are larger than 16 KiB."
        )
        problem = ApiError(400, why, code="invalid_http")
        body = json.dumps(problem.body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            _CLOSE,
        ]
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        if self.cycle is not None:
            # Whoever waits for the rest of the body learns that it will not come.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._is_deaf = True
        self.transport.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; where it answers before the body has arrived, hear no more."""
        cycle = self.cycle

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start" and cycle.more_body:
                self._is_deaf = True
                others = [header for header in message.get("headers", ()) if header != _CLOSE]
                message = {**message, "headers": [*others, _CLOSE]}
            await send(message)

        await self.config.loaded_app(scope, receive, send_on)

    def _close(self) -> None:
        """Close: at once, or when a client that is still sending has had time to read."""
        if not self._is_deaf:
            self._plain_transport.close()
        elif "linger" not in self._timers:
            self._idle[self] = None  # nobody is kept out by it
            self._start_timer("linger", LINGER_SECONDS)
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()

    def _abort(self) -> None:
        self._idle.pop(self, None)
        # Not close(): that would wait until the client has read what is still to be sent.
        self.transport.abort()

    def _start_timer(self, name: str, seconds: float) -> None:
        self._stop_timer(name)
        self._timers[name] = self.loop.call_later(seconds, self._abort)

    def _stop_timer(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()


def connection_class() -> type[asyncio.Protocol]:
    """Return a class for the connections of one server, which share the list of idle ones."""

    class ServerConnection(Connection):
        _idle: ClassVar[dict[Connection, None]] = {}

    return ServerConnection
