"""What the studio's routes share, and how they find it. Changes only on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request

from danlu.server.state import ServerState
from danlu.web.access import Sessions
from danlu.web.available_voices import AvailableVoices
from danlu.web.data.data_folders import DataFolders
from danlu.web.data.set_checks import SetChecks
from danlu.web.database import Database
from danlu.web.event_log import EventLog
from danlu.web.merging.merges import Merges
from danlu.web.models.loading import ModelLoading
from danlu.web.models.pulls import Pulls
from danlu.web.newest import Newest
from danlu.web.runs.run_index import RunIndex
from danlu.web.training.queue import TrainingQueue

# A piece of work that has not cleaned up by then is left to the end of the process.
_CLEAN_UP_S = 5.0

_LOGS_THAT_STAY = 32


@dataclass(kw_only=True)
class Studio:
    """The state of one studio.

    answers: what is being answered, by the id of its turn or comparison. tasks: work that goes on
    without its request; kept here, since the event loop does not keep it.
    """

    server: ServerState
    sessions: Sessions
    database: Database
    voices: AvailableVoices
    loading: ModelLoading
    data: DataFolders = field(default_factory=DataFolders)
    checks: SetChecks = field(default_factory=SetChecks)
    answers: dict[str, EventLog] = field(default_factory=dict)
    pulls: Pulls = field(default_factory=Pulls)
    merges: Merges = field(default_factory=Merges)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    plans: Newest = field(default_factory=Newest)
    queue: TrainingQueue = field(init=False)
    runs: RunIndex = field(init=False)

    def __post_init__(self) -> None:
        self.queue = TrainingQueue(self.database)
        self.runs = RunIndex(self.database)

    def log_of(self, name: str) -> EventLog:
        """Begin the log of an answer. Those that are over stay for a while: pages may be late."""
        over = [name for name, log in self.answers.items() if log.is_over]
        for old in over[:-_LOGS_THAT_STAY]:
            del self.answers[old]
        log = self.answers[name] = EventLog()
        return log

    def begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Let a piece of work go on by itself, under a name by which it can be stopped."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks[name] = task
        task.add_done_callback(lambda _done: self.tasks.pop(name, None))

    def stop(self, name: str) -> bool:
        """Stop a piece of work; False where there is none of that name."""
        task = self.tasks.get(name)
        return task is not None and task.cancel()

    def end(self) -> None:
        """Stop what goes on in the background, and let it clean up."""
        for work in (*self.pulls.all(), *self.merges.works.values()):
            work.wait(_CLEAN_UP_S)


def attach_studio(app: Starlette, studio: Studio) -> None:
    """Give an application its studio."""
    app.state.studio = studio


def studio_of(request: Request) -> Studio:
    """Return the studio of a request's application."""
    studio: Studio = request.app.state.studio
    return studio
