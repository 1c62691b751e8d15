"""Numbers of bytes and seconds, written for people: the one place that chooses the unit.

Binary units everywhere, since memory is sold and shown by drivers in them: a card of "64 GB" has
64 GiB (68.7 GB). A file and the memory that it fills then have the same number.
"""

from __future__ import annotations

from danlu.language import _

GIB = 2**30
_UNITS = (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10))


def readable_bytes(count: int) -> str:
    """Write a number of bytes: `1.5 GiB`, `37.0 MiB`, `12 bytes`."""
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return _("{count} bytes").format(count=count)


def readable_clock(seconds: float) -> str:
    """Write a time as a clock does: `0:07`, `12:30` or `1:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
