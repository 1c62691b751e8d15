"""An engine on a thread of its own, for many callers at once: the server's.

Only that thread touches the engine and the model. Callers put requests in and get outputs by a
callback; how many are in is bounded, and decided before a caller spends time on tokenizing. Must
not know messages or HTTP.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NewType, TypeVar

from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request, RequestId

Result = TypeVar("Result")
Ticket = NewType("Ticket", int)
Deliver = Callable[[Output], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    request: Request
    deliver: Deliver


class EngineService:
    """Starts and ends the thread, and hands requests and outputs over.

    num_seats: how many requests may be in at once, running and waiting.
    """

    def __init__(self, engine: Engine, *, num_seats: int) -> None:
        self._engine = engine
        self._num_seats = num_seats
        self._taken = 0
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets = itertools.count()
        self._entries: dict[Ticket, tuple[RequestId, Deliver]] = {}
        self._owners: dict[RequestId, Ticket] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are being served."""
        return self._thread.is_alive() and self._failure is None

    @property
    def num_seats_taken(self) -> int:
        """Count the requests that are in, or about to be."""
        return self._taken

    def reserve(self, seats: int = 1) -> bool:
        """Take seats for requests to come; False where there are not so many left."""
        with self._lock:
            if self._taken + seats > self._num_seats:
                return False
            self._taken += seats
            return True

    def give_back(self, seats: int = 1) -> None:
        """Return seats of requests that were not submitted after all."""
        with self._lock:
            self._taken -= seats

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Hand in a request that has a seat; the seat is free again after its last output.

        deliver: gets every output, on the engine's thread, and must return at once. The last one
        has a finish_reason; a request that the engine refuses ends with its error.
        """
        ticket = Ticket(next(self._tickets))
        self._post(lambda: self._add(ticket, _Entry(request=request, deliver=deliver)))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request before its next step; one that is finished is left alone."""
        self._post(lambda: self._abort(ticket))

    def call(self, function: Callable[[Engine], Result]) -> Future[Result]:
        """Run a function on the engine's thread between two steps."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(function(self._engine))
            except Exception as problem:
                future.set_exception(problem)

        self._post(run)
        return future

    def stop(self, *, drain_s: float = 0.0) -> None:
        """Let what is running finish within a limit, abort the rest, and end the thread.

        Call it once nothing is submitted any more.
        """
        deadline = time.monotonic() + drain_s
        while self._taken and self.is_alive and time.monotonic() < deadline:
            time.sleep(0.01)
        self._post(self._abort_all)
        self._inbox.put(None)
        self._thread.join()

    def _post(self, action: Callable[[], None]) -> None:
        self._inbox.put(action)
        if self._failure is not None:
            self._abandon()

    def _run(self) -> None:
        try:
            while self._take_inbox():
                for output in self._engine.step():
                    self._hand_over(output)
        except BaseException as failure:
            _log.exception("the engine's thread has ended")
            self._failure = failure
            self._abandon()

    def _take_inbox(self) -> bool:
        """Do what was asked for; wait where there is nothing else to do. False: the end."""
        wait = not self._engine.num_unfinished
        while True:
            try:
                action = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            if action is None:
                return False
            action()
            wait = not self._engine.num_unfinished

    def _add(self, ticket: Ticket, entry: _Entry) -> None:
        try:
            request_id = self._engine.add(entry.request)
        except Exception as problem:
            self.give_back()
            entry.deliver(Output(request_id=RequestId(-1), finish_reason="error", error=problem))
            return
        self._entries[ticket] = (request_id, entry.deliver)
        self._owners[request_id] = ticket

    def _abort(self, ticket: Ticket) -> None:
        if ticket in self._entries:
            self._engine.abort(self._entries[ticket][0])

    def _abort_all(self) -> None:
        for ticket in list(self._entries):
            self._abort(ticket)
        for output in self._engine.step():
            self._hand_over(output)

    def _hand_over(self, output: Output) -> None:
        ticket = self._owners[output.request_id]
        deliver = self._entries[ticket][1]
        if output.finish_reason is not None:
            del self._owners[output.request_id], self._entries[ticket]
            self.give_back()
        deliver(output)

    def _abandon(self) -> None:
        """Tell everybody that nothing more will come."""
        problem = RuntimeError("the engine's thread has ended")
        problem.__cause__ = self._failure
        while True:
            try:
                action = self._inbox.get_nowait()
            except queue.Empty:
                break
            if action is not None:
                action()
        for request_id, _deliver in list(self._entries.values()):
            self._hand_over(Output(request_id=request_id, finish_reason="error", error=problem))
