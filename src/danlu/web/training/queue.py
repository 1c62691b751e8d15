"""The queue of trainings: one runs at a time, the rest wait; it outlives the server.

A training is a process of its own, `danlu train` with a settings file. What it prints is in a log
file beside, and a lock that it inherits says whether it still runs (`files/detached.py`). So a
server that comes back finds out what became of it: from the lock, then from the run's folder.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from danlu.errors import DanluError, UsageError
from danlu.files.atomic import atomic_write, make_folder
from danlu.files.detached import holder_of_lock, start_detached
from danlu.files.home import danlu_home
from danlu.language import _
from danlu.runs.manifest import is_run, read_manifest
from danlu.runs.registry import register, run_id
from danlu.text.printable import printable
from danlu.web.database import Database

EntryState = Literal["waiting", "running", "finished", "interrupted", "stopped", "failed"]
MOST_WAITING = 100
PROGRAM = (sys.executable, "-m", "danlu.cli.main")
# Ended entries that the list still shows.
_SHOWN_ENDED = 20
_LOG_TAIL_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class QueueEntry:
    """A training in the queue. run: the id of its run. detail: why it failed, in its own words."""

    id: str
    run: str
    folder: Path
    cwd: str
    settings: dict[str, Any]
    state: EntryState
    detail: str
    created: float
    started: float | None
    pid: int | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in ("waiting", "running")

    def fields(self) -> dict[str, Any]:
        """Write it for a page."""
        return {
            "id": self.id,
            "run": self.run,
            "name": self.folder.name,
            "state": self.state,
            "detail": self.detail,
            "created": self.created,
            "resumes": "resume_from_checkpoint" in self.settings,
        }


class TrainingQueue:
    """Adds, orders and starts trainings. Its methods write files: not on the event loop."""

    def __init__(self, database: Database, program: Sequence[str] = PROGRAM) -> None:
        """Start trainings with `program`, which is danlu."""
        self._database, self._program = database, program
        self._folder = danlu_home() / "studio" / "trainings"
        self._lock = threading.Lock()

    def add(self, settings: Mapping[str, Any], folder: Path, *, cwd: str = "") -> QueueEntry:
        """Let a training wait for its turn. settings: as in a settings file.

        Raises UsageError where too many wait, or where the same run waits or runs already.
        """
        run = run_id(folder)
        with self._database.transaction() as connection:
            count, same = connection.execute(
                "SELECT COUNT(*), COALESCE(SUM(run = ?), 0) FROM queue "
                "WHERE state IN ('waiting', 'running')",
                (run,),
            ).fetchone()
            if same:
                raise UsageError(
                    _("The run {name} is in the queue already.").format(name=folder.name),
                    why=_("A run is computed by one process at a time."),
                    fix=_("Wait until it has ended, or take it out of the queue."),
                )
            if count >= MOST_WAITING:
                raise UsageError(
                    _("The queue is full."),
                    why=_("{count} trainings wait already.").format(count=count),
                    fix=_("Take one out, or wait."),
                )
            entry, now = secrets.token_hex(8), time.time()
            connection.execute(
                "INSERT INTO queue (id, place, run, folder, cwd, settings, state, created) "
                "VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?)",
                (entry, now, run, str(folder), cwd or os.getcwd(), _as_json(settings), now),
            )
        register(folder)
        return self.get(entry)

    def get(self, entry: str) -> QueueEntry:
        """Return an entry. Raises UsageError where there is none."""
        row = self._database.one("SELECT * FROM queue WHERE id = ?", (entry,))
        if row is None:
            raise UsageError(
                _("There is no such training in the queue."),
                why=_("It may have been taken out."),
                fix=_("Load the page again."),
            )
        return _entry(row)

    def shown(self) -> list[QueueEntry]:
        """List what runs and waits, in order, then what has ended, the latest first."""
        open_ones = (
            "SELECT * FROM queue WHERE state IN ('running', 'waiting') ORDER BY state, place"
        )
        ended = (
            "SELECT * FROM queue WHERE state NOT IN ('running', 'waiting') "
            f"ORDER BY started DESC LIMIT {_SHOWN_ENDED}"
        )
        return [_entry(row) for query in (open_ones, ended) for row in self._database.all(query)]

    def latest_by_run(self) -> dict[str, QueueEntry]:
        """Return the latest entry of each run, by the run's id."""
        rows = self._database.all("SELECT * FROM queue ORDER BY created")
        return {row["run"]: _entry(row) for row in rows}

    def of_run(self, run: str) -> QueueEntry | None:
        """Return the latest entry of a run; None where it was started elsewhere."""
        row = self._database.one(
            "SELECT * FROM queue WHERE run = ? ORDER BY created DESC LIMIT 1", (run,)
        )
        return None if row is None else _entry(row)

    def remove(self, entry: str) -> None:
        """Take a training out that waits or has ended. Raises UsageError for the one that runs."""
        self.get(entry)
        statement = "DELETE FROM queue WHERE id = ? AND state != 'running' RETURNING id"
        with self._database.transaction() as connection:
            if connection.execute(statement, (entry,)).fetchone() is None:
                raise UsageError(
                    _("This training is running."),
                    why=_("Only one that waits can be taken out."),
                    fix=_("Stop it first."),
                )

    def forget(self, run: str) -> None:
        """Drop what has ended of a run that is removed."""
        self._database.change(
            "DELETE FROM queue WHERE run = ? AND state NOT IN ('waiting', 'running')", (run,)
        )

    def order(self, entries: list[str]) -> None:
        """Let those that wait come in this order; the others behind them, as they were."""
        with self._database.transaction() as connection:
            waiting = [
                row["id"]
                for row in connection.execute(
                    "SELECT id FROM queue WHERE state = 'waiting' ORDER BY place"
                )
            ]
            chosen = [entry for entry in dict.fromkeys(entries) if entry in waiting]
            rest = [entry for entry in waiting if entry not in chosen]
            for place, entry in enumerate(chosen + rest):
                connection.execute("UPDATE queue SET place = ? WHERE id = ?", (place, entry))

    def advance(self) -> bool:
        """Note what has ended, and start the next one where none runs; whether anything changed."""
        with self._lock:
            changed = False
            for row in self._database.all("SELECT * FROM queue WHERE state = 'running'"):
                changed |= self._settle(_entry(row))
            return self._start_next() or changed

    def stop_before_its_run(self, entry: QueueEntry) -> bool:
        """End a process that has not yet taken its run's folder; nothing is lost with it."""
        holder = holder_of_lock(self._file(entry.id, "lock"))
        pid = holder.pid if holder else None
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return True

    def log_file(self, entry: str) -> Path:
        """Return where the output of a training is; it may not exist yet."""
        return self._file(entry, "log")

    def log_tail(self, entry: str) -> str:
        """Return the last part of what a training has printed."""
        return read_tail(self.log_file(entry))[0]

    def _file(self, entry: str, kind: str) -> Path:
        return self._folder / f"{entry}.{kind}"

    def _start_next(self) -> bool:
        with self._database.transaction() as connection:
            # One statement: two servers with the same DANLU_HOME do not both start one.
            row = connection.execute(
                "UPDATE queue SET state = 'running', started = ?, pid = NULL WHERE id = "
                "(SELECT id FROM queue WHERE state = 'waiting' ORDER BY place LIMIT 1) "
                "AND NOT EXISTS (SELECT 1 FROM queue WHERE state = 'running') RETURNING *",
                (time.time(),),
            ).fetchone()
        if row is None:
            return False
        entry = _entry(row)
        try:
            pid = self._start(entry)
        except BlockingIOError:
            return True  # another server has started it in this moment
        except (DanluError, OSError) as problem:
            self._end(entry, "failed", str(problem))
            return True
        self._database.change("UPDATE queue SET pid = ? WHERE id = ?", (pid, entry.id))
        return True

    def _start(self, entry: QueueEntry) -> int:
        make_folder(self._folder)
        file = self._file(entry.id, "yaml")
        atomic_write(file, settings_yaml(entry.settings))
        cwd = Path(entry.cwd)
        return start_detached(
            [*self._program, "train", str(file)],
            log=self.log_file(entry.id),
            lock=self._file(entry.id, "lock"),
            cwd=cwd if cwd.is_dir() else danlu_home(),
        )

    def _settle(self, entry: QueueEntry) -> bool:
        if holder_of_lock(self._file(entry.id, "lock")) is not None:
            return False
        state, detail = self._outcome(entry)
        self._end(entry, state, detail)
        return True

    def _outcome(self, entry: QueueEntry) -> tuple[EntryState, str]:
        """Find out how a training has ended whose process is gone."""
        begun = int(entry.started or 0.0)
        said = self.log_tail(entry.id).strip()
        if is_run(entry.folder):
            try:
                run = read_manifest(entry.folder)
            except (DanluError, OSError) as fault:  # damaged: the others shall not wait for it
                return "failed", str(fault)
            if run.state == "running":
                return "failed", _("Its process was killed; it can be resumed.")
            if run.ended and datetime.fromisoformat(run.ended).timestamp() >= begun:
                return run.state, run.detail
        if entry.pid is None and not said:
            return "waiting", ""  # the server ended before it could start it
        # It ended before it took the folder: the last lines say why.
        return "failed", "\n".join(said.splitlines()[-3:])

    def _end(self, entry: QueueEntry, state: EntryState, detail: str) -> None:
        self._database.change(
            "UPDATE queue SET state = ?, detail = ? WHERE id = ?", (state, detail[:2000], entry.id)
        )


def settings_yaml(settings: Mapping[str, Any]) -> str:
    """Write settings as a file that `danlu train` reads."""
    text: str = yaml.safe_dump(dict(settings), allow_unicode=True, sort_keys=False, width=1000)
    return text


def read_tail(file: Path, behind: int | None = None) -> tuple[str, int]:
    """Return the text of a log behind a place in it, and where it ends; without one its last part.

    Characters that would steer a terminal are left out.
    """
    try:
        with open(file, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            start = size - _LOG_TAIL_BYTES if behind is None else behind
            log.seek(max(0, start))
            data = log.read(_LOG_TAIL_BYTES)
    except OSError:
        return "", behind or 0
    text = data.decode("utf-8", "replace")
    shown = "\n".join(printable(line) for line in text.split("\n"))
    return shown, max(0, start) + len(data)


def _entry(row: Any) -> QueueEntry:
    return QueueEntry(
        id=row["id"],
        run=row["run"],
        folder=Path(row["folder"]),
        cwd=row["cwd"],
        settings=json.loads(row["settings"]),
        state=row["state"],
        detail=row["detail"],
        created=row["created"],
        started=row["started"],
        pid=row["pid"],
    )


def _as_json(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), ensure_ascii=False)
