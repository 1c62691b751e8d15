"""Ctrl-C and other signals: heeded at once, also while torch computes or waits outside Python."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from danlu.errors import EXIT_INTERRUPTED
from danlu.language import _
from danlu.moving_line import say_beside

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENOUGH = 0
_Handlers = dict[signal.Signals, Any]


@contextmanager
def on_signals(heed: Callable[[], None]) -> Iterator[_Handlers]:
    """Call `heed` in a thread for each signal that asks to stop; SIGHUP unless it is ignored here.

    Python calls a handler when its main thread comes back to it, and one that waits for another
    process in torch may never do so. Yields the handlers that will be put in place afterwards.
    """
    wanted = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    arriving, noted = os.pipe()
    os.set_blocking(noted, False)

    def listen() -> None:
        while (number := os.read(arriving, 1)[0]) != _ENOUGH:
            if number in wanted:
                heed()

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    # Python writes the number of each signal that has a handler, whatever the main thread does.
    before = signal.set_wakeup_fd(noted)
    handlers: _Handlers = {each: signal.signal(each, _pass) for each in wanted}
    try:
        yield handlers
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(before)
        os.write(noted, bytes([_ENOUGH]))
        listener.join()
        os.close(arriving)
        os.close(noted)


@contextmanager
def ended_by_signals(*, is_launched: bool) -> Iterator[None]:
    """End a launched process at the first signal, before its training; others are left as they are.

    An exception would be too little: it is not raised in one that waits for another, and that one
    has ended as well.
    """
    if not is_launched:
        yield
        return
    with on_signals(end_at_once):
        yield


def end_at_once() -> None:
    """End this process as one that was interrupted; of several, the one that leads says so."""
    try:
        if speaks():
            say_beside(_("interrupted"))
    finally:  # nobody may be left to read it
        os._exit(EXIT_INTERRUPTED)


def speaks() -> bool:
    """Whether this process tells the user what concerns all that compute one training."""
    return os.environ.get("RANK", "0") == "0" or "LOCAL_RANK" not in os.environ


def _pass(*_signal: object) -> None:
    """Be a handler in Python, so that the signal's number is written."""
