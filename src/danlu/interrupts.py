"""Ctrl-C: where it ends the process at once, and where it waits for the end of a step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# What raises KeyboardInterrupt, as Python does by itself.
_RAISING: set[Any] = {signal.default_int_handler}
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


def end_while_importing(end: Callable[[], None]) -> None:
    """Call `end`, which must end the process, for a Ctrl-C that finds a module half imported.

    A KeyboardInterrupt there is lost by some libraries, and others cannot be imported again.
    Elsewhere it is raised as ever. Where Ctrl-C means something else, nothing changes.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return

    def heed(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            end()
        signal.default_int_handler(number, frame)

    _RAISING.add(heed)
    signal.signal(signal.SIGINT, heed)


def end_at_ctrl_c(code: int) -> None:
    """Let a Ctrl-C end the process at once with an exit code, where it would raise an exception."""
    if signal.getsignal(signal.SIGINT) in _RAISING:
        signal.signal(signal.SIGINT, lambda *_signal: os._exit(code))


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


@contextmanager
def whole_step() -> Iterator[None]:
    """Raise the KeyboardInterrupt of a Ctrl-C inside the block behind it; of a second one at once.

    The engine's state would not survive half of a step. Where Ctrl-C means something else, or in
    another thread than the main one, nothing changes.
    """
    usual = signal.getsignal(signal.SIGINT)
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or usual not in _RAISING:
        yield
        return
    is_asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        if is_asked:
            raise KeyboardInterrupt
        is_asked = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if is_asked:
        raise KeyboardInterrupt
