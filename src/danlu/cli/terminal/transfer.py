"""How far a download is: one line that is rewritten in a terminal, a few lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque

from danlu.cli.terminal.screen import printable, say
from danlu.files.units import readable_bytes
from danlu.language import _

_EVERY_S = 0.25
_SPEED_OVER_S = 15.0
_LINES_ELSEWHERE = 10


class TransferLine:
    """Shows bytes, speed and time left. title: what is on its way, at the line's beginning."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty()
        self._title = ""
        self._points: deque[tuple[float, int]] = deque()
        self._shown_at = 0.0
        self._shown_tenth = -1

    def show(self, title: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are there."""
        now = time.monotonic()
        if title != self._title:
            self._points.clear()
            self._title, self._shown_tenth, self._shown_at = title, -1, 0.0
        self._points.append((now, done))
        while now - self._points[0][0] > _SPEED_OVER_S:
            self._points.popleft()
        if self._is_live:
            if now - self._shown_at >= _EVERY_S or done == total:
                self._shown_at = now
                self._write("\r\x1b[K" + self._line(done, total))
            return
        tenth = _LINES_ELSEWHERE * done // max(1, total)
        if tenth > self._shown_tenth:
            self._shown_tenth = tenth
            self._write(self._line(done, total) + "\n")

    def say(self, text: str) -> None:
        """Print a sentence on a line of its own."""
        self.clear()
        say(text)

    def clear(self) -> None:
        """Take the rewritten line away."""
        if self._is_live and self._shown_at:
            self._write("\r\x1b[K")

    def _line(self, done: int, total: int) -> str:
        then, before = self._points[0]
        seconds = self._points[-1][0] - then
        rate = (done - before) / seconds if seconds > 0 else 0.0
        text = _("{title}: {done} of {total}").format(
            title=self._title, done=readable_bytes(done), total=readable_bytes(total)
        )
        if rate <= 0 or done >= total:
            return printable(text)
        left = round((total - done) / rate)
        return printable(
            _("{what}, {rate}/s, {left} left").format(
                what=text, rate=readable_bytes(int(rate)), left=_clock(left)
            )
        )

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _clock(seconds: int) -> str:
    """Write a duration as 0:07, 12:30 or 1:05:00."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
