"""From a reply to its HTTP response: one JSON body, or server-sent events, until the client leaves.

Seats in the engine's queue are taken before any text is touched; rendering and tokenizing happen on
a worker thread. Must not know messages or the shape of answers. Sources: OpenAI's API reference,
"Streaming"; the HTML standard's section on server-sent events for comments, which keep connections
open while a long prompt is read.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from danlu.engine.service import EngineService
from danlu.errors import DanluError
from danlu.server.edge.gate import serving_of
from danlu.server.edge.http_errors import api_error_of
from danlu.server.openai.body_types import IGNORED_HEADER
from danlu.server.openai.in_flight import RequestsInFlight
from danlu.server.openai.reply import Json, Reply
from danlu.server.openai.requests import SamplingBody
from danlu.server.state import record_of, state_of

# A stream sends a comment after this long without an event, and begins after this long at most.
COMMENT_SECONDS = 5.0
_COMMENT = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"
# No proxy may collect the events before it passes them on (the second is nginx's).
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
# Ends of a line for some clients, though not by the standard; JSON may hold them as escapes.
_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
# nginx's status for a client that has disconnected; only the log shows it.
_CLIENT_CLOSED_REQUEST = 499

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client has disconnected."""


async def respond(
    http: HttpRequest, body: SamplingBody, make_reply: Callable[[], Reply], *, seats: int
) -> Response:
    """Answer with a stream of events or with one JSON body, as the request's body says.

    make_reply: renders and tokenizes, on a worker thread; its reply has as many requests as there
    are `seats`. Raises ApiError.
    """
    service = serving_of(http.app).service
    record = record_of(http.scope)
    in_flight = RequestsInFlight(service, state_of(http.app).figures, record, seats=seats)
    try:
        return await _until_gone(http.receive, _answer(service, in_flight, body, make_reply))
    except BaseException as problem:
        in_flight.close()
        if isinstance(problem, ClientGone):
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        if isinstance(problem, DanluError):
            raise api_error_of(problem, record.id, in_engine=True) from problem
        raise


async def _answer(
    service: EngineService,
    in_flight: RequestsInFlight,
    body: SamplingBody,
    make_reply: Callable[[], Reply],
) -> Response:
    def prepared() -> Reply:
        reply = make_reply()
        for request in reply.requests:
            service.prepare(request)
        return reply

    reply = await asyncio.to_thread(prepared)
    in_flight.submit(reply.requests)
    ignored = body.ignored()
    headers = {IGNORED_HEADER: ", ".join(ignored)} if ignored else {}
    if body.stream:
        # What refuses a request comes before the stream has begun, so with its own status.
        await in_flight.begin(COMMENT_SECONDS)
        return EventStream(in_flight, reply, headers)
    while not in_flight.is_complete:
        await _next_chunks(in_flight, reply)
    return JSONResponse(reply.whole(), headers=headers)


async def _next_chunks(
    in_flight: RequestsInFlight, reply: Reply, seconds: float | None = None
) -> list[Json] | None:
    """Hand the next output to the reply; return its chunks, or None where none comes in time."""
    arrived = await in_flight.next(seconds)
    if arrived is None:
        return None
    index, output = arrived
    chunks = reply.feed(index, output)
    if reply.has_enough(index):
        in_flight.cancel(index)
    return chunks


class EventStream(Response):
    """Sends server-sent events while outputs come.

    Closes `in_flight` at the end, or when the client has disconnected.
    """

    media_type = "text/event-stream"

    def __init__(
        self, in_flight: RequestsInFlight, reply: Reply, headers: Mapping[str, str]
    ) -> None:
        self.status_code = 200
        self.background = None
        self._in_flight = in_flight
        self._reply = reply
        self.init_headers({**_STREAM_HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await _until_gone(receive, self._send_all(send, record_of(scope).id))
        except (ClientGone, OSError):
            _log.debug("a client has gone before its answer was complete")
        finally:
            self._in_flight.close()

    async def _send_all(self, send: Send, request_id: str) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for piece in self._pieces(request_id):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self, request_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the events of the answer; an error becomes the last one."""
        in_flight, reply = self._in_flight, self._reply
        try:
            yield _events(reply.opening())
            while not in_flight.is_complete:
                chunks = await _next_chunks(in_flight, reply, COMMENT_SECONDS)
                if chunks is None:
                    yield _COMMENT
                elif chunks:
                    yield _events(chunks)
            yield _events(reply.closing()) + _DONE
        except Exception as problem:
            yield _events([api_error_of(problem, request_id, in_engine=True).body()])


def _events(chunks: Iterable[Json]) -> bytes:
    texts = (
        json.dumps(chunk, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for chunk in chunks
    )
    return b"".join(f"data: {text.translate(_LINE_ENDS)}\n\n".encode() for text in texts)


async def _until_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Await some work; cancel it and raise ClientGone as soon as the client disconnects.

    The request's body must have been read: `receive` then waits for the disconnection.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
