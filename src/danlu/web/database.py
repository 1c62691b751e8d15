"""The studio's database: chats, comparisons and what else belongs to no run.

One SQLite file in DANLU_HOME. What runs are stays in their folders; of them the database holds only
what can be read from them again. Source: SQLite's documentation (WAL, user_version); write-ahead
logging needs memory that processes share, which network file systems do not give.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.errors import CapacityError, DataError, EnvironmentFault
from danlu.files.atomic import make_folder
from danlu.files.home import danlu_home
from danlu.language import _
from danlu.reasons import as_sentence, reason_of

FILE = "studio.db"
# One script a version; what has once been published is never changed.
MIGRATIONS = (
    """
    CREATE TABLE chats (
        id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, changed REAL NOT NULL,
        settings TEXT NOT NULL, draft TEXT NOT NULL DEFAULT '', shown INTEGER
    );
    CREATE INDEX chats_by_change ON chats (changed DESC);
    CREATE TABLE turns (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        chat TEXT NOT NULL REFERENCES chats ON DELETE CASCADE,
        before INTEGER REFERENCES turns ON DELETE CASCADE,
        role TEXT NOT NULL, content TEXT NOT NULL, reasoning TEXT NOT NULL DEFAULT '',
        tool_calls TEXT NOT NULL DEFAULT '[]', state TEXT NOT NULL,
        facts TEXT NOT NULL DEFAULT '{}', created REAL NOT NULL
    );
    CREATE INDEX turns_of_chat ON turns (chat, id);
    CREATE TABLE comparisons (
        id TEXT PRIMARY KEY, created REAL NOT NULL, prompt TEXT NOT NULL, settings TEXT NOT NULL,
        answers TEXT NOT NULL, vote TEXT
    );
    CREATE TABLE queue (
        id TEXT PRIMARY KEY, place REAL NOT NULL, run TEXT NOT NULL, folder TEXT NOT NULL,
        cwd TEXT NOT NULL, settings TEXT NOT NULL, state TEXT NOT NULL,
        detail TEXT NOT NULL DEFAULT '', created REAL NOT NULL, started REAL, pid INTEGER
    );
    CREATE INDEX queue_by_run ON queue (run, created DESC);
    CREATE TABLE notes (run TEXT PRIMARY KEY, title TEXT NOT NULL, note TEXT NOT NULL);
    CREATE TABLE runs (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, card TEXT NOT NULL);
    CREATE TABLE changed_rows (
        dataset TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL,
        excluded INTEGER NOT NULL, content TEXT, PRIMARY KEY (dataset, number)
    );
    CREATE TABLE taught (
        id TEXT PRIMARY KEY, created REAL NOT NULL, chat TEXT NOT NULL, turn INTEGER NOT NULL,
        voice TEXT NOT NULL, model TEXT NOT NULL
    );
    """,
)
# So long another program may keep the file locked.
_PATIENCE_S = 5.0
_NETWORK = ("nfs", "cifs", "smb", "fuse.", "9p", "lustre", "gpfs", "ceph", "afs", "beegfs")


class Database:
    """One connection, used by one thread at a time.

    Raises EnvironmentFault where the file cannot be opened, and DataError where it is none of ours
    or a newer danlu's.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or danlu_home() / FILE
        make_folder(self.path.parent)
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(
                self.path, check_same_thread=False, timeout=_PATIENCE_S
            )
            os.chmod(self.path, 0o600)
            self._connection.row_factory = sqlite3.Row
            mode = "DELETE" if _is_on_a_network(self.path.parent) else "WAL"
            self._connection.execute(f"PRAGMA journal_mode={mode}")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("PRAGMA foreign_keys=ON")
            self._migrate()
        except sqlite3.DatabaseError as problem:
            raise _unusable(self.path, problem) from problem

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one caller; all it changes is kept, or nothing is.

        Raises CapacityError where the file is gone, locked, or its disk full, as all methods do.
        """
        with self._lock, _explained(self.path), self._connection:
            yield self._connection

    def all(self, statement: str, words: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        with self._lock, _explained(self.path):
            return self._connection.execute(statement, words).fetchall()

    def one(self, statement: str, words: Sequence[Any] = ()) -> sqlite3.Row | None:
        """Return the first row of a query."""
        with self._lock, _explained(self.path):
            row: sqlite3.Row | None = self._connection.execute(statement, words).fetchone()
            return row

    def change(self, statement: str, words: Sequence[Any] = ()) -> int:
        """Carry out one change; return the number of the new row."""
        with self.transaction() as connection:
            return connection.execute(statement, words).lastrowid or 0

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise DataError(
                _("{path} was written by a newer danlu.").format(path=self.path),
                why=_("Its version is {version}, and this danlu knows {known}.").format(
                    version=version, known=len(MIGRATIONS)
                ),
                fix=_("Update danlu, or set another folder: DANLU_HOME=FOLDER"),
            )
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            # One transaction: a script that is cut off leaves the version before it.
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT;"
            )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    if not path.exists():
        # It would go on in a file that nobody finds, and be lost with the server's end.
        raise CapacityError(
            _("The studio's database {path} is gone.").format(path=path),
            why=_("It was moved or removed while the studio runs."),
            fix=_("Put it back, or start the studio again: danlu web"),
        )
    try:
        yield
    except sqlite3.OperationalError as problem:
        raise CapacityError(
            _("The studio's database cannot be used at the moment."),
            why=as_sentence(reason_of(problem)),
            fix=_("End other programs that use {path}, or free space on its disk.").format(
                path=path
            ),
        ) from problem


def _is_on_a_network(folder: Path) -> bool:
    """Whether a folder lies on a network file system, as far as this system says."""
    try:
        with open("/proc/mounts", encoding="utf-8", errors="replace") as file:
            mounts = [line.split()[1:3] for line in file]
    except OSError:
        return False
    inside = [(place, kind) for place, kind in mounts if folder.is_relative_to(place)]
    return bool(inside) and max(inside, key=lambda mount: len(mount[0]))[1].startswith(_NETWORK)


def _unusable(path: Path, problem: sqlite3.DatabaseError) -> DataError | EnvironmentFault:
    kind = EnvironmentFault if isinstance(problem, sqlite3.OperationalError) else DataError
    return kind(
        _("The studio's database {path} cannot be used.").format(path=path),
        why=as_sentence(reason_of(problem)),
        fix=shlex.join(["mv", str(path), f"{path}.broken"]),
    )
