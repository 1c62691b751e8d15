"""Text of untrusted origin made safe to show: models, files and their names can hold anything."""

from __future__ import annotations

import re

# C0, DEL, C1; line and paragraph separator; marks that turn the reading direction.
UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
_DROPPED = re.compile(f"[{UNPRINTABLE}]")


def printable(text: str, *, keep: str = "\n\t") -> str:
    """Drop what moves the cursor, breaks a line or turns the reading direction, `keep` excepted."""
    return _DROPPED.sub(lambda found: found[0] if found[0] in keep else "", text)


def one_line(text: str) -> str:
    """Write a name or value of untrusted origin so that it cannot begin a line of its own."""
    return printable(re.sub(r"[\r\n]+", " ", text), keep="\t")
