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
from danlu.web.models.loading import ModelLoading
from danlu.web.newest import Newest
from danlu.web.runs.run_index import RunIndex
from danlu.web.training.queue import TrainingQueue


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
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    plans: Newest = field(default_factory=Newest)
    queue: TrainingQueue = field(init=False)
    runs: RunIndex = field(init=False)

    def __post_init__(self) -> None:
        self.queue = TrainingQueue(self.database)
        self.runs = RunIndex(self.database)

    def begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Let a piece of work go on by itself, under a name by which it can be stopped."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks[name] = task
        task.add_done_callback(lambda _done: self.tasks.pop(name, None))

    def stop(self, name: str) -> bool:
        """Stop a piece of work; False where there is none of that name."""
        task = self.tasks.get(name)
        return task is not None and task.cancel()


def attach_studio(app: Starlette, studio: Studio) -> None:
    """Give an application its studio."""
    app.state.studio = studio


def studio_of(request: Request) -> Studio:
    """Return the studio of a request's application."""
    studio: Studio = request.app.state.studio
    return studio
