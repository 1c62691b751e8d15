"""Work that takes minutes, on a thread of its own: what it tells, and stopping it.

Its events tell how it stands as a whole, so a page that comes late needs the newest one only. Where
the work is stopped, or the server ends, the next thing that it tells raises `Stopped` inside it,
and its own clean-up leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from danlu.errors import DanluError
from danlu.program import as_typed
from danlu.reasons import reason_of
from danlu.web.event_log import EventLog

# So often at most it is told how far the work is; the speed is that of the last seconds.
_EVERY_S = 0.4
_SPEED_OVER_S = 15.0
Json = dict[str, Any]


class Stopped(Exception):
    """The work is to end here."""


class Background:
    """One piece of work. `newest` is the last event; its `state` says whether it runs.

    state: running, stopping, stopped, failed (with message and fix) or done.
    """

    def __init__(self, facts: Json | None = None) -> None:
        self.log = EventLog()
        self.newest: Json = {"state": "running", **(facts or {})}
        self._loop = asyncio.get_running_loop()
        self._is_stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._told_at = 0.0
        self._points: deque[tuple[float, int]] = deque()
        self._stage = ""
        self.log.add(self.newest)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.log.is_over

    def begin(self, work: Callable[[Background], Json]) -> None:
        """Let it run; what it returns becomes part of the last event."""
        # A daemon: a connection that hangs does not keep the server from ending.
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; on the event loop."""
        if not self.is_over and not self._is_stopped.is_set():
            self._is_stopped.set()
            self._add({"state": "stopping"})

    def wait(self, seconds: float) -> None:
        """Stop it, and wait until it has cleaned up."""
        self._is_stopped.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def tell(self, **facts: Any) -> None:
        """Tell something new; on the work's thread. Raises Stopped."""
        if self._is_stopped.is_set():
            raise Stopped
        self._send({"state": "running", **facts})

    def show(self, what: str, done: int, total: int) -> None:
        """Tell how far it is, in bytes, not too often; on the work's thread. Raises Stopped."""
        if self._is_stopped.is_set():
            raise Stopped
        now = time.monotonic()
        is_new = what != self._stage
        if is_new:
            self._stage = what
            self._points.clear()
        self._points.append((now, done))
        while now - self._points[0][0] > _SPEED_OVER_S and len(self._points) > 2:
            self._points.popleft()
        if not is_new and now < self._told_at + _EVERY_S and done < total:
            return
        self._told_at = now
        then, before = self._points[0]
        rate = (done - before) / (now - then) if now - then > _EVERY_S else 0.0
        left = (total - done) / rate if rate > 0 and total else None
        self._send({"stage": what, "done": done, "total": total, "rate": rate, "left_s": left})

    def _run(self, work: Callable[[Background], Json]) -> None:
        end: Json
        try:
            end = {"state": "done", **work(self)}
        except Stopped:
            end = {"state": "stopped"}
        except DanluError as problem:
            message = f"{problem.what} {problem.why}"
            end = {"state": "failed", "message": message, "fix": as_typed(problem.fix)}
        except BaseException as problem:
            end = {"state": "failed", "message": reason_of(problem), "fix": ""}
        self._send({"rate": 0.0, "left_s": None, **end}, is_last=True)

    def _send(self, facts: Json, *, is_last: bool = False) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(self._add, facts, is_last)

    def _add(self, facts: Json, is_last: bool = False) -> None:
        is_stopping = self._is_stopped.is_set() and not is_last
        self.newest = {**self.newest, **facts, **({"state": "stopping"} if is_stopping else {})}
        self.log.add(self.newest)
        if is_last:
            self.log.end()
