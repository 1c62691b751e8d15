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
from typing import NewType, TypeVar

from danlu.engine.engine import Engine, Figures
from danlu.engine.request import Output, Request, RequestId

Result = TypeVar("Result")
Ticket = NewType("Ticket", int)
Deliver = Callable[[Output], None]
# Gets the engine, or None once there is none any more.
_Action = Callable[[Engine | None], None]

_log = logging.getLogger(__name__)


class EngineStopped(RuntimeError):
    """Nothing is computed any more."""


class EngineService:
    """Starts and ends the thread, and hands requests and outputs over.

    num_seats: how many requests may be in at once, running and waiting.
    """

    def __init__(self, engine: Engine, *, num_seats: int) -> None:
        self._engine = engine
        self._num_seats = num_seats
        self._taken = 0
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[_Action | None] = queue.SimpleQueue()
        self._is_open = True
        self._tickets = itertools.count()
        self._entries: dict[Ticket, tuple[RequestId, Deliver]] = {}
        self._owners: dict[RequestId, Ticket] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are being served."""
        return self._is_open and self._thread.is_alive()

    @property
    def num_seats_taken(self) -> int:
        """Count the requests that are in, or about to be."""
        return self._taken

    def figures(self) -> Figures:
        """Say what the engine is doing, about now."""
        return self._engine.figures()

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

    def prepare(self, request: Request) -> None:
        """Do on the caller's thread what would hold up the engine's; optional, before `submit`.

        Raises UsageError for a grammar that cannot be used.
        """
        self._engine.prepare(request)

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Hand in a request that has a seat; the seat is free again with its last output.

        deliver: gets every output, on the engine's thread, and must return at once. The last one
        has a finish_reason; a request that the engine refuses ends with its error.
        """
        ticket = Ticket(next(self._tickets))
        self._post(lambda engine: self._add(engine, ticket, request, deliver))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request before its next step; one that is finished is left alone."""
        self._post(lambda engine: self._abort(engine, ticket))

    def call(self, function: Callable[[Engine], Result]) -> Future[Result]:
        """Run a function on the engine's thread between two steps."""
        future: Future[Result] = Future()

        def run(engine: Engine | None) -> None:
            try:
                if engine is None:
                    raise _ended()
                future.set_result(function(engine))
            except Exception as problem:
                future.set_exception(problem)

        self._post(run)
        return future

    def stop(self, *, drain_s: float = 0.0) -> None:
        """Let what is running finish within a limit, abort the rest, and end the thread."""
        deadline = time.monotonic() + drain_s
        while self._taken and self.is_alive and time.monotonic() < deadline:
            time.sleep(0.01)
        self._inbox.put(None)
        self._thread.join()

    def _post(self, action: _Action) -> None:
        with self._lock:
            if self._is_open:
                self._inbox.put(action)
                return
        action(None)

    def _run(self) -> None:
        try:
            while self._take_inbox():
                for output in self._engine.step():
                    self._hand_over(output)
            for ticket in list(self._entries):
                self._abort(self._engine, ticket)
            for output in self._engine.step():
                self._hand_over(output)
        except Exception:
            _log.exception("the engine's thread has ended")
        finally:
            self._close()

    def _take_inbox(self) -> bool:
        """Do what was asked for; wait where there is nothing else to do. False: the end."""
        while True:
            try:
                action = self._inbox.get(block=self._engine.is_idle)
            except queue.Empty:
                return True
            if action is None:
                return False
            action(self._engine)

    def _close(self) -> None:
        """Tell everybody who is still in that nothing more will come."""
        with self._lock:
            self._is_open = False
        while not self._inbox.empty():
            action = self._inbox.get()
            if action is not None:
                action(None)
        for request_id, _deliver in list(self._entries.values()):
            self._hand_over(_error(request_id, _ended()))

    def _add(
        self, engine: Engine | None, ticket: Ticket, request: Request, deliver: Deliver
    ) -> None:
        try:
            if engine is None:
                raise _ended()
            request_id = engine.add(request)
        except Exception as problem:
            self.give_back()
            _give(deliver, _error(RequestId(-1), problem))
            return
        self._entries[ticket] = (request_id, deliver)
        self._owners[request_id] = ticket

    def _abort(self, engine: Engine | None, ticket: Ticket) -> None:
        if engine is not None and ticket in self._entries:
            engine.abort(self._entries[ticket][0])

    def _hand_over(self, output: Output) -> None:
        ticket = self._owners[output.request_id]
        _request_id, deliver = self._entries[ticket]
        if output.finish_reason is not None:
            del self._owners[output.request_id], self._entries[ticket]
            self.give_back()
        _give(deliver, output)


def _give(deliver: Deliver, output: Output) -> None:
    """Call back; a caller that is gone must not take the engine with it."""
    try:
        deliver(output)
    except Exception:
        _log.exception("an output could not be handed over")


def _error(request_id: RequestId, problem: Exception) -> Output:
    return Output(request_id=request_id, finish_reason="error", error=problem)


def _ended() -> EngineStopped:
    return EngineStopped("the engine's thread has ended")
