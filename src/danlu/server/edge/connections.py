"""uvicorn's HTTP connections, with deadlines for slow clients and a bound on their number.

A client has a limited time to send the head of a request, and to read what is sent to it. Where
too many connections are open, the one that has been idle longest is closed, so that clients which
only hold connections open never keep others out. Must not know routes or the engine.
"""

from __future__ import annotations

import asyncio
import json
import resource
from functools import lru_cache
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from danlu.language import _
from danlu.server.edge.http_errors import ApiError

HEAD_SECONDS = 10.0
WRITE_SECONDS = 30.0
LINGER_SECONDS = 1.0
IDLE_SECONDS = 30
_MOST_CONNECTIONS = 4096
# How many connections the event loop accepts at once; the process has further files open.
ACCEPTED_AT_ONCE = 100
_OTHER_FILES = 256


@lru_cache(maxsize=1)
def most_connections() -> int:
    """Return how many connections may be open, from the process's limit of open files."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(16, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))


class Connection(H11Protocol):
    """One client's connection.

    _idle: the server's connections without a request, in the order in which they became idle.
    """

    _idle: ClassVar[dict[Connection, None]]

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the first head; close an idle connection if there are too many."""
        super().connection_made(transport)
        self._idle[self] = None
        self._start_timer("head", HEAD_SECONDS)
        if len(self.connections) > most_connections():
            # It is this one only if all others have requests.
            next(iter(self._idle))._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        super().connection_lost(exc)
        self._idle.pop(self, None)
        self._stop_timer("head")
        self._stop_timer("write")

    def data_received(self, data: bytes) -> None:
        """Start the deadline with the first bytes of a head, end it with the last."""
        if self._is_refused:
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

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in OpenAI's error shape too."""
        problem = ApiError(
            400,
            _("The request is no HTTP/1.1, or its headers are larger than 16 KiB."),
            code="invalid_http",
        )
        body = json.dumps(problem.body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        # Closed at once, with bytes still coming in, the answer would be lost on its way.
        self._is_refused = True
        self.loop.call_later(LINGER_SECONDS, self._abort)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _abort(self) -> None:
        self._idle.pop(self, None)
        # Not close(): that would wait until the client has read what is still to be sent.
        self.transport.abort()

    def _start_timer(self, name: str, seconds: float) -> None:
        self._timers[name] = self.loop.call_later(seconds, self._abort)

    def _stop_timer(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()


def connection_class() -> type[asyncio.Protocol]:
    """Return a class for the connections of one server, which share the list of idle ones."""

    class ServerConnection(Connection):
        _idle: ClassVar[dict[Connection, None]] = {}

    return ServerConnection
