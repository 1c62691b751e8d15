"""uvicorn's HTTP connections, with deadlines for whoever is slow and a bound on their number.

A client has so long to send the head of a request, and so long to take what is sent to it. Where
too many connections are open, the one that has been idle longest makes room, so that those who
only hold connections open never keep others out. Must not know routes or the engine.
"""

from __future__ import annotations

import asyncio
import json
import resource
from functools import lru_cache, partial
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from danlu.language import _
from danlu.server.edge.http_errors import ApiError

HEAD_SECONDS = 10.0
WRITE_SECONDS = 30.0
LINGER_SECONDS = 1.0
IDLE_SECONDS = 30
_MOST_CONNECTIONS = 4096
# How many are taken in one go; the process has further files open besides.
ACCEPTED_AT_ONCE = 100
_OTHER_FILES = 256


@lru_cache(maxsize=1)
def most_connections() -> int:
    """Return how many connections may be open, by what the system lets a process have."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(16, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))


class Connection(H11Protocol):
    """One client's connection.

    idle: the server's connections on which nothing is being answered, the one idle longest first.
    """

    def __init__(self, *words: Any, idle: dict[Connection, None], **named: Any) -> None:
        super().__init__(*words, **named)
        self._idle = idle
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in, and let another one go if there are too many."""
        super().connection_made(transport)
        self._idle[self] = None
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)
        if len(self.connections) > most_connections():
            # It is this one itself only if all others are at work.
            next(iter(self._idle))._give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        super().connection_lost(exc)
        self._idle.pop(self, None)
        self._stop_head_timer()
        self._stop_write_timer()

    def data_received(self, data: bytes) -> None:
        """Start the deadline with the first piece of a head, end it with the last."""
        if self._is_refused:
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._idle.pop(self, None)
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def on_response_complete(self) -> None:
        """Be idle, unless the next request is here already."""
        self._idle[self] = None
        super().on_response_complete()
        if not self.cycle.response_complete:
            self._idle.pop(self, None)

    def pause_writing(self) -> None:
        """Wait for a client that reads too slowly, but not for ever."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self._give_up)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        self._stop_write_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else is answered: in OpenAI's error shape."""
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
        self.loop.call_later(LINGER_SECONDS, self._give_up)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _give_up(self) -> None:
        self._idle.pop(self, None)
        # Not close(): that would wait until the client has read what is still to be sent.
        self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def connection_class() -> type[asyncio.Protocol]:
    """Return what a server makes its connections with; they know of each other."""
    return cast("type[asyncio.Protocol]", partial(Connection, idle={}))
