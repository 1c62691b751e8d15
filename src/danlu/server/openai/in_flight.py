"""The engine requests behind one HTTP request, from their seats in the queue to their last outputs.

Lives on the event loop; the engine's thread only hands outputs over. Closing cancels what is
unfinished, at any time. Must not know messages or the shape of answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from danlu.dialog.events import Usage
from danlu.engine.request import Output, Request, RequestId
from danlu.engine.service import EngineService
from danlu.language import _
from danlu.server.edge.http_errors import ApiError, api_error_of
from danlu.server.prometheus import PrometheusFigures
from danlu.server.state import RequestRecord


@dataclass(kw_only=True)
class _RunningRequest:
    """One request in the engine, and what it has cost so far. last: time of its last token."""

    id: RequestId
    usage: Usage
    last: float
    is_cancelled: bool = False


class RequestsInFlight:
    """Seats in the engine's queue, then the outputs of the requests that took them.

    Must be closed. seats: how many requests there will be. record: of the HTTP request; it gets
    their tokens. Raises ApiError where too few seats are free.
    """

    def __init__(
        self,
        service: EngineService,
        figures: PrometheusFigures,
        record: RequestRecord,
        *,
        seats: int,
    ) -> None:
        if not service.is_alive:
            raise ApiError(503, _("The engine has stopped."), code="unavailable")
        if seats > service.num_seats:
            raise ApiError(
                400,
                _(
                    "This request asks for {seats} answers, and the server takes {most} at once. "
                    "Send fewer prompts in one request (lm-eval: --batch_size), or a smaller n."
                ).format(seats=seats, most=service.num_seats),
            )
        if not service.reserve(seats):
            raise ApiError(
                429,
                _("Too many requests are waiting. Try again in a moment."),
                code="queue_full",
                headers={"retry-after": "1"},
            )
        self._service = service
        self._figures = figures
        self._record = record
        self._seats = seats
        self._running: dict[int, _RunningRequest] = {}
        self._arrived: deque[tuple[int, Output]] = deque()
        self._has_arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()

    @property
    def is_complete(self) -> bool:
        """Whether the last output of every request has been taken."""
        return not self._running

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand the requests to the engine, one a seat; from then on an index names each."""
        for index, request in enumerate(requests):
            request = replace(request, owner=self._record.key)
            request_id = self._service.submit(request, partial(self._deliver, index))
            self._seats -= 1
            usage = Usage(prompt_tokens=len(request.prompt), completion_tokens=0)
            self._running[index] = _RunningRequest(id=request_id, usage=usage, last=self._started)
            self._figures.request_started()

    async def next(self, seconds: float | None = None) -> tuple[int, Output] | None:
        """Wait for the next output of any request, with its index; None where none comes in time.

        Raises ApiError where a request has failed, or was aborted other than by `cancel`.
        """
        if not self._arrived:
            await self._wait(seconds)
        if not self._arrived:
            return None
        index, output = self._arrived.popleft()
        running = self._count(index, output)
        if output.finish_reason == "error":
            raise api_error_of(output.error, self._record.id, in_engine=True)
        if output.finish_reason == "abort" and not running.is_cancelled:
            message = _("The model was stopped; this answer is not complete.")
            raise ApiError(503, message, code="unavailable")
        return index, output

    def cancel(self, index: int) -> None:
        """End one request; its last output still comes."""
        running = self._running.get(index)
        if running is not None and not running.is_cancelled:
            running.is_cancelled = True
            self._service.cancel(running.id)

    def close(self) -> None:
        """Cancel what is unfinished and return unused seats; at any time, more than once."""
        for running in self._running.values():
            self._service.cancel(running.id)
            self._finish("abort", running)
        self._running.clear()
        if self._seats:
            self._service.give_back(self._seats)
            self._seats = 0

    def _deliver(self, index: int, output: Output) -> None:
        """Take an output on the engine's thread."""
        self._loop.call_soon_threadsafe(self._take, index, output)

    def _take(self, index: int, output: Output) -> None:
        self._arrived.append((index, output))
        self._has_arrived.set()

    async def _wait(self, seconds: float | None) -> None:
        """Wait until an output arrives, or until the time is over.

        Not by asyncio.wait_for, which before Python 3.12 loses a cancellation that comes together
        with what it waits for: the answer to a disconnected client would be computed to its end.
        """
        self._has_arrived.clear()
        timer = None if seconds is None else self._loop.call_later(seconds, self._has_arrived.set)
        try:
            await self._has_arrived.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _count(self, index: int, output: Output) -> _RunningRequest:
        running, now = self._running[index], time.monotonic()
        for place in range(len(output.tokens)):
            if running.usage.completion_tokens + place == 0:
                self._figures.first_token(now - self._started)
            else:
                self._figures.token(0.0 if place else now - running.last)
        if output.tokens:
            running.last = now
        running.usage = running.usage.plus(output)
        if output.finish_reason is not None:
            del self._running[index]
            self._finish(output.finish_reason, running)
        return running

    def _finish(self, reason: str, running: _RunningRequest) -> None:
        self._record.prompt_tokens += running.usage.prompt_tokens
        self._record.completion_tokens += running.usage.completion_tokens
        seconds = time.monotonic() - self._record.started
        self._figures.request_finished(reason, running.usage, seconds=seconds)
