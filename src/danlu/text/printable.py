"""Text of untrusted origin made safe to show: models, files and their names can hold anything."""

from __future__ import annotations


def printable(text: str) -> str:
    """Drop control characters except newline and tab (C0, DEL and C1)."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0))
