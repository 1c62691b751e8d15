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
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from danlu.engine.request import Request
from danlu.errors import DanluError
from danlu.server.edge.gate import serving_of
from danlu.server.edge.http_errors import api_error_of
from danlu.server.edge.long_bodies import on_thread
from danlu.server.openai.body_types import ignored_header
from danlu.server.openai.grammars import unchecked
from danlu.server.openai.in_flight import RequestsInFlight
from danlu.server.openai.reply import Json, Reply
from danlu.server.openai.requests import SamplingBody
from danlu.server.requested_model import RequestedModel, requested_model
from danlu.server.state import Serving, record_of, state_of

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

BodyT = TypeVar("BodyT", bound=SamplingBody)
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client has disconnected."""


async def respond(
    http: HttpRequest,
    body: BodyT,
    make_reply: Callable[[BodyT, RequestedModel, Serving], Reply],
    *,
    seats: int,
) -> Response:
    """Answer with a stream of events or with one JSON body, as the request's body says.

    make_reply: renders and tokenizes, on a worker thread; its reply has as many requests as there
    are `seats`. Raises ApiError.
    """
    serving, record = serving_of(http.app), record_of(http.scope)
    model = requested_model(serving, body.model)
    figures = state_of(http.app).figures
    in_flight = RequestsInFlight(serving.service, figures, record, seats=seats)
    make = partial(make_reply, body, model, serving)
    try:
        return await _until_gone(http.receive, _answer(http, body, make, in_flight))
    except BaseException as problem:
        in_flight.close()
        if isinstance(problem, ClientGone):
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        if isinstance(problem, DanluError):
            raise api_error_of(problem, record.id, in_engine=True) from problem
        raise


async def _answer(
    http: HttpRequest,
    body: SamplingBody,
    make_reply: Callable[[], Reply],
    in_flight: RequestsInFlight,
) -> Response:
    reply, headers = await _prepared(http, body, make_reply)
    in_flight.submit(reply.requests)
    if body.stream:
        # What refuses a request comes before the stream has begun, so with its own status.
        first = await _next_chunks(in_flight, reply, COMMENT_SECONDS)
        pieces = _pieces(in_flight, reply, first, record_of(http.scope).id)
        return EventStream(pieces, in_flight, headers)
    while not in_flight.is_complete:
        await _next_chunks(in_flight, reply)
    return JSONResponse(reply.whole(), headers=headers)


async def _prepared(
    http: HttpRequest, body: SamplingBody, make_reply: Callable[[], Reply]
) -> tuple[Reply, Mapping[str, str]]:
    """Refuse what is wrong with the request; what fails behind this is the server's."""

    def made() -> tuple[Reply, Mapping[str, str]]:
        return make_reply(), ignored_header([*body.ignored(), *unchecked(body)])

    try:
        reply, headers = await on_thread(http, made)
        if any(request.sampling.grammar is not None for request in reply.requests):
            # Few at once: hostile ones would keep the threads from all others.
            async with state_of(http.app).grammars:
                reply.requests = await asyncio.to_thread(
                    _compiled, serving_of(http.app), reply.requests
                )
    except DanluError as problem:
        raise api_error_of(problem, record_of(http.scope).id) from problem
    return reply, headers


def _compiled(serving: Serving, requests: Sequence[Request]) -> list[Request]:
    return [serving.service.prepare(request) for request in requests]


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


class EventStream(StreamingResponse):
    """Sends server-sent events while outputs come.

    Closes `in_flight` at the end, or when the client has disconnected.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        pieces: AsyncIterable[bytes],
        in_flight: RequestsInFlight,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(pieces, headers={**_STREAM_HEADERS, **headers})
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await _until_gone(receive, self.stream_response(send))
        except (ClientGone, OSError):
            _log.debug("a client has gone before its answer was complete")
        finally:
            self._in_flight.close()


async def _pieces(
    in_flight: RequestsInFlight, reply: Reply, first: list[Json] | None, request_id: str
) -> AsyncIterator[bytes]:
    """Yield the events of an answer; an error becomes the last one. first: chunks made already."""
    try:
        yield _events(reply.opening())
        if first:
            yield _events(first)
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
