"""The way of every HTTP request that wants text: seats, worker thread, engine, answer.

Seats are taken before any text is touched, and rendering and tokenizing happen on a worker thread.
Must not know messages or the shape of answers: a route brings those as a `Reply`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from danlu.errors import DanluError
from danlu.server.openai.answers import Answers, failure
from danlu.server.openai.disconnect import ClientGone, until_gone
from danlu.server.openai.reply import Reply, advance
from danlu.server.openai.streaming import KEEP_ALIVE_SECONDS, EventStream
from danlu.server.state import Serving

# nginx's status for a client that has gone; nobody but the log reads it.
CLIENT_CLOSED_REQUEST = 499


async def respond(
    http: Request,
    prepare: Callable[[], Reply],
    *,
    seats: int,
    stream: bool,
    headers: Mapping[str, str],
) -> Response:
    """Answer with a stream of events or with one JSON body.

    prepare: makes as many requests as there are `seats`, on a worker thread. Raises ApiError.
    """
    serving = cast(Serving, http.app.state.serving)
    request_id = str(getattr(http.state, "request_id", "-"))
    answers = Answers(serving.service, http.app.state.metrics, seats=seats, request_id=request_id)
    try:
        return await until_gone(http.receive, _answer(answers, prepare, stream, headers))
    except ClientGone:
        answers.close()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except DanluError as problem:
        answers.close()
        raise failure(problem, request_id) from problem
    except BaseException:
        answers.close()
        raise


def _prepared(answers: Answers, prepare: Callable[[], Reply]) -> Reply:
    reply = prepare()
    answers.prepare(reply.requests)
    return reply


async def _answer(
    answers: Answers, prepare: Callable[[], Reply], stream: bool, headers: Mapping[str, str]
) -> Response:
    reply = await asyncio.to_thread(_prepared, answers, prepare)
    answers.submit(reply.requests)
    if stream:
        # What refuses a request comes before the stream has begun, so with its own status.
        await answers.begin(KEEP_ALIVE_SECONDS)
        return EventStream(answers, reply, headers)
    while not answers.are_complete:
        await advance(answers, reply)
    return JSONResponse(reply.whole(), headers=dict(headers))
