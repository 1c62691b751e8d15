"""The moving line: what goes on at the moment, for people who wait.

One line of a terminal, on standard error: a spinner that moves whatever happens, what is done, how
far it is and how long it still takes. It is gone when the work is. In a pipe nothing moves; where a
command wants it, a stage is a plain line on standard output then. Knows terminals and numbers. Must
not know what the work is: that is told by a `Progress`.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from danlu.language import _, columns
from danlu.say import say
from danlu.text.printable import printable
from danlu.units import readable_bytes, readable_clock

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

# What is done at the moment, how many bytes of it are done, and of how many; 0 of 0: unknown.
Progress = Callable[[str, int, int], None]

# Without a terminal a stage prints a line at its beginning, and one for every tenth of it.
_LINES_OF_A_STAGE = 10
# The speed is that of the last seconds.
_SPEED_OVER_S = 15.0
_FRAMES, _FRAMES_PER_S = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", 10
_LEAST_COLUMNS = 4
# The lines that move in the terminal at the moment.
_MOVING: list[MovingLine] = []


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing: for those who do not wait."""


class MovingLine:
    """Moves on a terminal while its block runs.

    in_lines: print stages as lines where there is no terminal; else nothing is printed there.
    """

    def __init__(self, what: str = "", *, in_lines: bool = False) -> None:
        self._what = what
        self._done = self._total = 0
        self._write: Callable[[int], str] = readable_bytes
        self._since = time.monotonic()
        self._points: deque[tuple[float, int]] = deque([(self._since, 0)])
        self._in_lines, self._tenth = in_lines, -1
        self._live = _live(self) if sys.stderr.isatty() else None

    def __enter__(self) -> MovingLine:
        if self._live is not None:
            self._live.start()
            _MOVING.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def show(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show what is done, and how far it is in bytes; may be called from any thread."""
        self._show(what, done, total, readable_bytes)

    def count(self, what: str, done: int, total: int) -> None:
        """Show what is done, and how far it is in rows or other things that are counted."""
        self._show(what, done, total, "{:,}".format)

    def say(self, text: str) -> None:
        """Print a line that stays, on standard output."""
        self.stop()
        say(text)
        self.__enter__()

    def stop(self) -> None:
        """Take the line away; what follows stands in its place."""
        if self._live is not None:
            self._live.stop()
        if self in _MOVING:
            _MOVING.remove(self)

    def _show(self, what: str, done: int, total: int, write: Callable[[int], str]) -> None:
        now = time.monotonic()
        if what != self._what or self._tenth < 0:
            self._points, self._since, self._tenth = deque([(now, done)]), now, -1
        self._what, self._done, self._total, self._write = what, done, total, write
        points = self._points
        points.append((now, done))
        while now - points[0][0] > _SPEED_OVER_S and len(points) > 2:
            points.popleft()
        tenth = _LINES_OF_A_STAGE * done // total if total else 0
        if tenth > self._tenth and self._live is None and self._in_lines:
            say(self._text(self._what))
        self._tenth = max(tenth, self._tenth)

    def _text(self, what: str) -> str:
        if not self._total:
            return f"{what} ..."
        text = _("{title}: {done} of {total}").format(
            title=what, done=self._write(self._done), total=self._write(self._total)
        )
        (then, before), (now, done) = self._points[0], self._points[-1]
        if done <= before or now <= then or self._done >= self._total:
            return text
        rate = (done - before) / (now - then)
        speed = readable_bytes(int(rate)) if self._write is readable_bytes else f"{rate:.1f}"
        # Between two reports the time goes on.
        left = (self._total - self._done) / rate - (time.monotonic() - now)
        return _("{what}, {rate}/s, {left} left").format(
            what=text, rate=speed, left=readable_clock(max(left, 0.0))
        )

    def picture(self, width: int) -> Text:
        """Draw the line for so many columns; of a longer one the words are cut, not the figures."""
        from rich.cells import set_cell_size
        from rich.text import Text

        now = time.monotonic()
        clock = "" if self._total else f" {readable_clock(now - self._since)}"
        room = width - 3 - len(clock)
        what = self._what
        excess = columns(self._text(what)) - room
        if excess > 0:
            what = set_cell_size(what, max(_LEAST_COLUMNS, columns(what) - excess - 1)) + "…"
        frame = _FRAMES[int(now * _FRAMES_PER_S) % len(_FRAMES)]
        line = Text.assemble(frame, " ", printable(self._text(what)), clock)
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


def say_beside(text: str) -> None:
    """Print a line that stays on standard error, whatever line is moving there."""
    moving = tuple(_MOVING)
    for line in moving:
        line.stop()
    say(text, to=sys.stderr)
    for line in moving:
        line.__enter__()


def write_line(text: str) -> None:
    """Write a line to standard error, above the one that may move there; from any thread."""
    from rich.text import Text

    moving = [line._live for line in tuple(_MOVING) if line._live is not None]
    if moving:
        print_above(moving[-1], Text(text), soft_wrap=True)
    else:
        print(text, file=sys.stderr, flush=True)


def print_above(live: Live, *what: object, soft_wrap: bool = False) -> None:
    """Print what stays above a picture that moves.

    Under the lock that Rich's own redraws take: else one that began before erases as many lines as
    the picture had then, of those that were printed since, too.
    """
    with live._lock:
        live.console.print(*what, soft_wrap=soft_wrap)


def _live(line: MovingLine) -> Live:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    return Live(
        console=console,
        get_renderable=lambda: line.picture(console.width),
        refresh_per_second=_FRAMES_PER_S,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
