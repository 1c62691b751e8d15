"""The server's log: one line an event, on standard error; no client can forge a line.

Line breaks, escape sequences and other control characters in a logged text are written as
\\x1b and the like; only a traceback keeps its line breaks.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from danlu.moving_line import write_line
from danlu.text.printable import UNPRINTABLE

# The second part: halves of surrogate pairs.
_CONTROL = re.compile(rf"[{UNPRINTABLE}\ud800-\udfff]")


def escaped(text: str, *, keep: str = "") -> str:
    """Write control characters and halves of surrogate pairs as escapes, `keep` excepted."""

    def escape(found: re.Match[str]) -> str:
        character = found[0]
        code = ord(character)
        if character in keep:
            return character
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _CONTROL.sub(escape, text)


class SafeFormatter(logging.Formatter):
    """Writes time, level and message; escapes what would end the line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Write the line itself."""
        return escaped(super().formatMessage(record), keep="\t")

    def formatException(self, ei: Any) -> str:
        """Write a traceback, which may quote anything."""
        return escaped(super().formatException(ei), keep="\n\t")


class _LogLines(logging.Handler):
    """Writes to standard error, beside the line that moves there while a model is loaded."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write_line(self.format(record))
        except Exception:
            self.handleError(record)


def log_to_stderr() -> None:
    """Send the log, that of the libraries too, to standard error."""
    handler = _LogLines()
    handler.setFormatter(SafeFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("danlu").setLevel(logging.INFO)
