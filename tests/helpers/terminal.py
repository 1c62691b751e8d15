"""A program in a terminal of its own: keys go in, and what a person would see is read back."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence

import pyte

from tests.helpers.waiting import PATIENCE_S

# Without a controlling terminal the keys Ctrl-C and Ctrl-D would be mere characters.
PROGRAM = (
    "import fcntl, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "from danlu.cli.main import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


class _Screen(pyte.HistoryScreen):  # type: ignore[misc]
    """A screen that answers when it is asked where its cursor is."""

    def __init__(self, columns: int, lines: int, keyboard: int) -> None:
        super().__init__(columns, lines, history=5000)
        self._keyboard = keyboard

    def write_process_input(self, data: str) -> None:
        os.write(self._keyboard, data.encode())


class Terminal:
    """danlu in a terminal of so many columns and lines.

    before: statements that run before it. program: what runs instead of one command. seen: the
    columns that are read back; with more than the program knows of, a line that is too long for its
    terminal is seen as such.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 30,
        before: str = "",
        program: str = PROGRAM,
        seen: int = 0,
        **variables: str,
    ) -> None:
        self._keyboard, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "DANLU_LANG": "en", "TERM": "xterm-256color",
            **variables,
        }  # fmt: skip
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, "-c", before + program, *words],
            env=environment, stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        self._screen = _Screen(seen or columns, lines, self._keyboard)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    @property
    def text(self) -> str:
        """All lines, those that have scrolled away too, without the blanks at their ends."""
        above = [
            "".join(line[column].data for column in range(self._screen.columns))
            for line in self._screen.history.top
        ]
        lines = [line.rstrip() for line in (*above, *self._screen.display)]
        return "\n".join(lines).rstrip("\n")

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._keyboard, keys.encode())

    def clear(self, prompt: str = "User:") -> None:
        """At a prompt that is empty: take everything else off the screen, as Ctrl-L does."""
        self.type("\x0c")
        self._screen.history.top.clear()
        self.wait_until(lambda: self.text == prompt, "an empty screen")

    def wait_for(self, text: str, *, more: int = 0, times: int = 1) -> str:
        """Read until a text stands on the screen so often, and so many characters behind it."""
        return self.wait_until(
            lambda: self.text.count(text) >= times and self._behind(text) >= more, text
        )

    def wait_for_match(self, pattern: str) -> re.Match[str]:
        """Read until the screen has what a regular expression describes; return it."""
        self.wait_until(lambda: re.search(pattern, self.text) is not None, pattern)
        found = re.search(pattern, self.text)
        assert found
        return found

    def ask(self, keys: str, prompt: str = "User:") -> str:
        """Type at a prompt that is empty, and wait until it is empty again."""
        self.wait_until(lambda: self.text.endswith(prompt), prompt)
        before = self.text.count(prompt)
        self.type(keys)
        return self.wait_until(
            lambda: self.text.endswith(prompt) and self.text.count(prompt) > before, prompt
        )

    def wait_until(self, is_there: Callable[[], bool], what: str) -> str:
        """Read until something is so; what: how a failure names it."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_there():
            assert time.monotonic() < deadline, f"no {what!r} in:\n{self.text}"
            if not self._read(1.0):
                raise AssertionError(f"it ended without {what!r}:\n{self.text}")
        return self.text

    def exit_code(self, patience_s: float = PATIENCE_S) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + patience_s
        while self._read(1.0):
            assert time.monotonic() < deadline, self.text
        return self._process.wait()

    def close(self) -> None:
        """End the program, if it is still there."""
        self._process.kill()
        self._process.wait()
        os.close(self._keyboard)

    def _behind(self, text: str) -> int:
        return len(self.text.rpartition(text)[2])

    def _read(self, seconds: float) -> bool:
        """Take what the program has written; return False when it has left its terminal."""
        ready, _w, _x = select.select([self._keyboard], [], [], seconds)
        if not ready:
            return True
        try:
            piece = os.read(self._keyboard, 65536)
        except OSError:  # what Linux says then
            return False
        self.raw += piece
        self._stream.feed(piece)
        return bool(piece)
