"""The list of runs: what their folders say, kept in the database so that only changes are read.

The folders are the truth, and the index may be removed at any time. Titles and notes are the user's
own words about a run, and no part of it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from danlu.errors import UsageError
from danlu.language import _
from danlu.runs.manifest import is_run
from danlu.runs.registry import registered_folders, run_id
from danlu.web.database import Database
from danlu.web.runs.metric_table import MetricTables
from danlu.web.runs.run_card import live_state, read_card, stamp_of

Json = dict[str, Any]
_CHUNK = 200

_log = logging.getLogger(__name__)


class RunIndex:
    """Lists runs and finds one by its id. Its methods read files: not on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self.tables = MetricTables()

    def cards(self, search: str = "") -> list[Json]:
        """Return the cards of all runs, the newest first; those in which a text stands."""
        with self._lock:
            known = {row["path"]: row for row in self._database.all("SELECT * FROM runs")}
            fresh: dict[str, tuple[str, Json]] = {}
            cards = []
            for folder in registered_folders():
                card = self._card(folder, known, fresh)
                if card is not None:
                    cards.append((folder, card))
            self._keep(fresh, set(known) - {str(folder) for folder, _card in cards})
        notes = {row["run"]: row for row in self._database.all("SELECT * FROM notes")}
        shown = [_with_notes(card, notes, folder) for folder, card in cards]
        wanted = search.strip().lower()
        found = [card for card in shown if not wanted or wanted in _searched(card)]
        return sorted(found, key=lambda card: card["started"], reverse=True)

    def card(self, folder: Path) -> Json:
        """Return one run's card as of now. Raises as `read_card` does."""
        card = read_card(folder, self.tables.of(folder))
        notes = self._database.all("SELECT * FROM notes WHERE run = ?", (card["id"],))
        return _with_notes(card, {row["run"]: row for row in notes}, folder)

    def folder(self, id_of_run: str) -> Path:
        """Return the folder of a run. Raises UsageError where there is none of this id."""
        for folder in registered_folders():
            if run_id(folder) == id_of_run and is_run(folder):
                return folder
        raise UsageError(
            _("There is no such run."),
            why=_("It may have been removed."),
            fix=_("Load the list of runs again."),
        )

    def note(self, id_of_run: str, *, title: str | None, note: str | None) -> None:
        """Give a run a title or a note; None leaves what there is."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO notes (run, title, note) VALUES (?, '', '')", (id_of_run,)
            )
            for name, value in (("title", title), ("note", note)):
                if value is not None:
                    connection.execute(
                        f"UPDATE notes SET {name} = ? WHERE run = ?", (value, id_of_run)
                    )

    def forget(self, id_of_run: str) -> None:
        """Drop title and note of a run that is removed: another one may get its name."""
        self._database.change("DELETE FROM notes WHERE run = ?", (id_of_run,))

    def rebuild(self) -> int:
        """Make the index anew; return how many runs are in it."""
        self._database.change("DELETE FROM runs")
        return len(self.cards())

    def _card(self, folder: Path, known: Json, fresh: dict[str, tuple[str, Json]]) -> Json | None:
        try:
            stamp = stamp_of(folder)
        except OSError:
            return None  # gone, or on a disk that is not there now
        row = known.get(str(folder))
        if row is not None and row["stamp"] == stamp:
            with suppress(ValueError):
                card: Json = json.loads(row["card"])
                return card
        try:
            card = read_card(folder)
        except Exception as fault:  # whatever one folder holds, the others are listed
            _log.warning("a run is not shown: %s", " ".join(str(fault).split("\n")[:2]))
            return None
        fresh[str(folder)] = (stamp, card)
        return card

    def _keep(self, fresh: dict[str, tuple[str, Json]], gone: set[str]) -> None:
        if not fresh and not gone:
            return
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO runs (path, stamp, card) VALUES (?, ?, ?)",
                [(path, stamp, json.dumps(card)) for path, (stamp, card) in fresh.items()],
            )
            for part in _parts(sorted(gone)):
                marks = ", ".join("?" * len(part))
                connection.execute(f"DELETE FROM runs WHERE path IN ({marks})", part)


def _with_notes(card: Json, notes: Json, folder: Path) -> Json:
    row = notes.get(card["id"])
    return {
        **card,
        "state": live_state(card, folder),
        "title": (row["title"] if row else "") or card["name"],
        "note": row["note"] if row else "",
    }


def _searched(card: Json) -> str:
    return " ".join(str(card[name]) for name in ("title", "name", "base", "note", "kind")).lower()


def _parts(paths: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(paths), _CHUNK):
        yield paths[start : start + _CHUNK]
