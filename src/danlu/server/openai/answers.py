"""The requests behind one HTTP request, from taking their seats to their last outputs.

Lives on the event loop; the engine's thread only hands outputs over. What is unfinished is
cancelled when it is closed, at once and whatever the reason. Must not know messages or the shape of
answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from danlu.engine.request import Output, Request, RequestId
from danlu.engine.service import EngineService, EngineStopped
from danlu.errors import CapacityError, DataError, UsageError
from danlu.language import _
from danlu.server.edge.errors import ApiError
from danlu.server.edge.problems import SERVER_ERROR, internal_error
from danlu.server.life.prometheus import Metrics

RETRY_SECONDS = 1

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Progress:
    """One request in the engine, and what it has cost so far."""

    id: RequestId
    prompt_tokens: int
    last: float
    completion_tokens: int = 0
    cached_tokens: int = 0
    is_cancelled: bool = False


class Answers:
    """Seats in the engine, then the outputs of the requests that took them.

    Whoever makes one must close it. request_id: under which the log tells of what fails. Raises
    ApiError where there are no seats left.
    """

    def __init__(
        self, service: EngineService, metrics: Metrics, *, seats: int, request_id: str
    ) -> None:
        if not service.is_alive:
            raise _unavailable(_("The engine has stopped."))
        if not service.reserve(seats):
            raise ApiError(
                429,
                _("Too many requests are waiting. Try again in a moment."),
                kind="rate_limit_error",
                code="queue_full",
                headers={"retry-after": str(RETRY_SECONDS)},
            )
        self.request_id = request_id
        self._service = service
        self._metrics = metrics
        self._seats = seats
        self._running: dict[int, _Progress] = {}
        self._arrived: deque[tuple[int, Output]] = deque()
        self._news = asyncio.Event()
        self._first: tuple[int, Output] | None = None
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()

    @property
    def are_complete(self) -> bool:
        """Whether the last output of every request has been taken."""
        return not self._running and self._first is None

    def prepare(self, requests: Sequence[Request]) -> None:
        """Do what takes long and needs no engine; on a worker thread. Raises UsageError."""
        for request in requests:
            self._service.prepare(request)

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand in the requests, one a seat; they are known by their places from then on."""
        for index, request in enumerate(requests):
            id_ = self._service.submit(request, partial(self._deliver, index))
            self._seats -= 1
            self._running[index] = _Progress(
                id=id_, prompt_tokens=len(request.prompt), last=self._started
            )
            self._metrics.request_started()

    async def begin(self, seconds: float) -> None:
        """Wait for the first output, but not longer; raise at once what refuses a request."""
        self._first = await self.next(seconds)

    async def next(self, seconds: float | None = None) -> tuple[int, Output] | None:
        """Wait for the next output of any request, with its place; None where none comes in time.

        Raises ApiError where a request has failed, or was aborted by others than `cancel`.
        """
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not self._arrived:
            await self._wait(seconds)
        if not self._arrived:
            return None
        index, output = self._arrived.popleft()
        progress = self._record(index, output)
        if output.finish_reason == "error":
            raise failure(output.error, self.request_id)
        if output.finish_reason == "abort" and not progress.is_cancelled:
            raise _unavailable(_("The server is stopping; this answer is not complete."))
        return index, output

    def cancel(self, index: int) -> None:
        """End one request; its last output is still to come."""
        progress = self._running.get(index)
        if progress is not None and not progress.is_cancelled:
            progress.is_cancelled = True
            self._service.cancel(progress.id)

    def close(self) -> None:
        """Cancel what is unfinished and return the seats that were not used; at any time."""
        for progress in self._running.values():
            self._service.cancel(progress.id)
            self._finish("abort", progress)
        self._running.clear()
        if self._seats:
            self._service.give_back(self._seats)
            self._seats = 0

    def _deliver(self, index: int, output: Output) -> None:
        """Take an output on the engine's thread."""
        self._loop.call_soon_threadsafe(self._take, index, output)

    def _take(self, index: int, output: Output) -> None:
        self._arrived.append((index, output))
        self._news.set()

    async def _wait(self, seconds: float | None) -> None:
        """Wait until something arrives, or for so long.

        Not by asyncio.wait_for, which before Python 3.12 loses a cancellation that comes together
        with what it waits for: the answer to a client that has gone would run on to its end.
        """
        self._news.clear()
        timer = None if seconds is None else self._loop.call_later(seconds, self._news.set)
        try:
            await self._news.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _record(self, index: int, output: Output) -> _Progress:
        progress, now = self._running[index], time.monotonic()
        for place in range(len(output.tokens)):
            if progress.completion_tokens == 0:
                self._metrics.first_token(now - self._started)
            else:
                self._metrics.token(0.0 if place else now - progress.last)
            progress.completion_tokens += 1
            progress.last = now
        progress.cached_tokens += output.cached_tokens
        if output.finish_reason is not None:
            del self._running[index]
            self._finish(output.finish_reason, progress)
        return progress

    def _finish(self, reason: str, progress: _Progress) -> None:
        self._metrics.request_finished(
            reason, progress.prompt_tokens, progress.completion_tokens, progress.cached_tokens
        )


def failure(problem: Exception | None, request_id: str) -> ApiError:
    """Make an ApiError of what went wrong; texts of unexpected exceptions go to the log only."""
    if isinstance(problem, UsageError):
        return ApiError(400, f"{problem.what} {problem.why}")
    if isinstance(problem, EngineStopped):
        return _unavailable(_("The engine has stopped."))
    _log.error("request %s failed", request_id, exc_info=problem)
    if isinstance(problem, CapacityError):
        return _unavailable(problem.what)
    if isinstance(problem, DataError):
        return ApiError(500, problem.what, kind=SERVER_ERROR, code="bad_model")
    return internal_error(request_id)


def _unavailable(message: str) -> ApiError:
    return ApiError(503, message, kind=SERVER_ERROR, code="unavailable")
