"""Finds stop texts in a stream of text pieces, however the pieces are cut."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.text.parse import overlap


class StopFinder:
    """Passes text on up to the first stop text; holds back what may still become one.

    First is the one that is complete first; of two complete at once, the longer. So the result
    does not depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, piece: str) -> tuple[str, bool]:
        """Return (text to pass on, whether a stop text was met); nothing may follow a stop."""
        text = self._held + piece
        found = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """Return what was held back: the text has ended, so no stop text is in it."""
        held, self._held = self._held, ""
        return held
