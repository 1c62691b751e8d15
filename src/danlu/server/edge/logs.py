"""The server's log: one line an event, on standard error; no client can forge a line.

Line breaks, escape sequences and other control characters in a logged text are written as
\\x1b and the like; only a traceback keeps its line breaks.
"""

from __future__ import annotations

import logging
import sys
from typing import Any


def escaped(text: str, *, keep: str = "") -> str:
    """Write control characters and halves of surrogate pairs as escapes, `keep` excepted."""
    return "".join(
        character if character in keep or not _is_control(character) else _escape(character)
        for character in text
    )


def _is_control(character: str) -> bool:
    code = ord(character)
    # C0, DEL, C1, surrogates; line and paragraph separator; marks that turn the reading direction.
    return (
        code < 0x20
        or 0x7F <= code < 0xA0
        or 0xD800 <= code < 0xE000
        or code in (0x2028, 0x2029)
        or 0x202A <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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


def log_to_stderr() -> None:
    """Send the log, that of the libraries too, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("danlu").setLevel(logging.INFO)
