"""An engine on a thread of its own, for many callers at once, as the server needs it.

Only that thread computes. Callers submit requests and get the outputs by a callback. The number of
requests is bounded: a caller reserves its seats before it spends time on tokenizing. Must not know
messages or HTTP.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from danlu.engine.engine import Engine, Figures
from danlu.engine.request import Deliver, Output, Request, RequestId

Result = TypeVar("Result")
# What to do on the thread, and where its result goes.
_Call = tuple[Future[Any], Callable[[Engine], Any]]

_log = logging.getLogger(__name__)


class EngineStopped(RuntimeError):
    """The engine's thread has ended; nothing is computed any more."""


class EngineService:
    """Starts and ends the thread; passes requests to it and outputs back.

    num_seats: how many requests may be in at once, running and waiting.
    """

    def __init__(self, engine: Engine, *, num_seats: int) -> None:
        self._engine = engine
        self.num_seats = num_seats
        self._taken = 0
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._is_open = True
        self._unfinished: dict[RequestId, Deliver] = {}
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
        """Return what the engine is doing, about now."""
        return self._engine.figures()

    def reserve(self, seats: int = 1) -> bool:
        """Take seats for requests to come; return False where fewer are free."""
        with self._lock:
            if self._taken + seats > self.num_seats:
                return False
            self._taken += seats
            return True

    def give_back(self, seats: int = 1) -> None:
        """Return seats of requests that were not submitted after all."""
        with self._lock:
            self._taken -= seats

    def prepare(self, request: Request) -> Request:
        """Compile a request's grammar on the caller's thread; optional, before `submit`.

        Raises what `Engine.prepare` raises.
        """
        return self._engine.prepare(request)

    def submit(self, request: Request, deliver: Deliver) -> RequestId:
        """Hand in a request that has a seat; the seat is free again with its last output.

        The last output has a finish_reason; a request that the engine refuses ends with its error.
        """
        request_id = self._engine.new_id()

        def add(engine: Engine) -> None:
            engine.add(request, partial(self._hand_over, deliver), request_id=request_id)
            self._unfinished[request_id] = deliver

        def check(added: Future[None]) -> None:
            problem = added.exception()
            if isinstance(problem, Exception):
                self._hand_over(deliver, _error(request_id, problem))

        self.call(add).add_done_callback(check)
        return request_id

    def cancel(self, request_id: RequestId) -> None:
        """End a request before its next step; a finished one is left alone."""
        self.call(lambda engine: engine.abort(request_id))

    def call(self, function: Callable[[Engine], Result]) -> Future[Result]:
        """Run a function on the engine's thread between two steps."""
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()  # from now on nobody can cancel it
        with self._lock:
            if self._is_open:
                self._inbox.put((future, function))
                return future
        future.set_exception(_ended())
        return future

    def stop(self, *, drain_s: float = 0.0) -> None:
        """Let requests finish for `drain_s` seconds, abort the rest, and end the thread."""
        deadline = time.monotonic() + drain_s
        while self._taken and self.is_alive and time.monotonic() < deadline:
            time.sleep(0.01)
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_inbox():
                self._engine.step()
            for request_id in list(self._unfinished):
                self._engine.abort(request_id)
        except Exception:
            _log.exception("the engine's thread has ended")
        finally:
            self._close()

    def _take_inbox(self) -> bool:
        """Do what was asked for; wait if no request is unfinished. Return False to end."""
        while True:
            try:
                call = self._inbox.get(block=not self._engine.num_unfinished)
            except queue.Empty:
                return True
            if call is None:
                return False
            future, function = call
            try:
                future.set_result(function(self._engine))
            except Exception as problem:
                future.set_exception(problem)

    def _close(self) -> None:
        """End every request that is still in with an error."""
        with self._lock:
            self._is_open = False
        while not self._inbox.empty():
            call = self._inbox.get()
            if call is not None:
                call[0].set_exception(_ended())
        for request_id, deliver in list(self._unfinished.items()):
            self._hand_over(deliver, _error(request_id, _ended()))

    def _hand_over(self, deliver: Deliver, output: Output) -> None:
        """Call back; a caller that fails must not end the engine's thread."""
        if output.finish_reason is not None:
            self._unfinished.pop(output.request_id, None)
            self.give_back()
        try:
            deliver(output)
        except Exception:
            _log.exception("an output could not be handed over")


def _error(request_id: RequestId, problem: Exception) -> Output:
    return Output(request_id=request_id, finish_reason="error", error=problem)


def _ended() -> EngineStopped:
    return EngineStopped("the engine's thread has ended")
