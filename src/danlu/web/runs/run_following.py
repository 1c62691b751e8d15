"""What happens in a run, as numbered events that a page follows while it goes on.

An event's number is that of the last record of the metrics that was told; so a page which comes
back says what it has seen, and misses nothing. What the folder says is asked for again and again,
since the run is another process, perhaps of a terminal.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from danlu.errors import DanluError
from danlu.runs.manifest import is_run
from danlu.web.runs.run_curve import points_behind
from danlu.web.runs.run_details import activity, waiting_card
from danlu.web.studio import Studio
from danlu.web.training.queue import read_tail

Json = dict[str, Any]
_EVERY_S = 0.5
# More new records than this are faster loaded as a curve.
_MOST_POINTS = 2000
# Looks that fail one after the other: it is no moment any more, the files are damaged.
_MOST_FAILED = 10
_GOING_ON = ("running", "starting", "waiting", "ending")


class _Follower:
    """One page that follows one run. seen: the records that it has."""

    def __init__(self, studio: Studio, id_of_run: str, folder: Path, seen: int) -> None:
        self._studio, self._id, self._folder = studio, id_of_run, folder
        self.seen = seen
        self._generation: int | None = None
        self._card: Json = {}
        self._log: tuple[str, int] | None = None

    def look(self) -> tuple[list[Json], bool]:
        """Return what is new, and whether more may come; reads files."""
        entry = self._studio.queue.of_run(self._id)
        events: list[Json] = []
        if is_run(self._folder):
            events += self._new_points()
            table = self._studio.runs.tables.of(self._folder)
            card = self._studio.runs.card(self._folder)
            card |= activity(card, entry)
            card["count"] = table.count
        elif entry is not None:
            card = waiting_card(entry)
        else:
            return events, False
        if card != self._card:
            self._card = card
            events.append({"kind": "card", "card": card})
        if entry is not None:
            events += self._new_log(entry.id)
        goes_on = card["state"] in _GOING_ON or (entry is not None and not entry.is_over)
        return events, goes_on

    def _new_points(self) -> list[Json]:
        table = self._studio.runs.tables.of(self._folder)
        was, self._generation = self._generation, table.generation
        taken_back = (was is not None and was != table.generation) or table.count < self.seen
        if taken_back or table.count > self.seen + _MOST_POINTS:
            self.seen = table.count
            return [{"kind": "reload"}]
        if table.count == self.seen:
            return []
        points = points_behind(table, self.seen)
        self.seen = table.count
        return [{"kind": "points", **points}]

    def _new_log(self, entry: str) -> list[Json]:
        file = self._studio.queue.log_file(entry)
        if self._log is None or self._log[0] != entry:
            text, end = read_tail(file)
            self._log = (entry, end)
            return [{"kind": "log", "text": text, "anew": True}]
        text, end = read_tail(file, self._log[1])
        self._log = (entry, end)
        return [{"kind": "log", "text": text, "anew": False}] if text else []


async def follow_run(
    studio: Studio, id_of_run: str, folder: Path, seen: int
) -> AsyncIterator[tuple[int, str] | None]:
    """Yield (number, event) of what happens behind `seen`; None where nothing came lately.

    Events: `points`, `reload` where records were taken back, `card`, `log`. Ends with the run.
    """
    follower = _Follower(studio, id_of_run, folder, seen)
    failed = 0
    while True:
        try:
            events, goes_on = await asyncio.to_thread(follower.look)
            failed = 0
        except (DanluError, OSError):
            failed += 1  # perhaps in the middle of being moved or replaced
            events, goes_on = [], is_run(folder) and failed < _MOST_FAILED
        for event in events:
            yield follower.seen, json.dumps(event, ensure_ascii=False, allow_nan=False)
        if not goes_on:
            return
        yield None  # a moment in which a server that stops can hang up
        await asyncio.sleep(_EVERY_S)
