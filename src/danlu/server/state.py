"""What the server knows while it runs: its state, the model it serves, a record of each request.

`state_of` and `record_of` are the only places that read them from Starlette's untyped attributes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.types import Scope

from danlu.dialog.assistant import Assistant
from danlu.engine.admission import admitted
from danlu.engine.request import Request, SamplingSettings
from danlu.engine.service import EngineService
from danlu.server.prometheus import PrometheusFigures
from danlu.server.served_adapters import AdapterFolders, ServedAdapter
from danlu.server.settings import ServeSettings

_AT_ONCE = 2


@dataclass(kw_only=True)
class Serving:
    """A model that is being served. `adapters` changes only on the event loop.

    name: what requests call the base model. defaults: the model's own sampling settings, with
    thinking and without. context_tokens: the longest prompt and answer together.
    """

    name: str
    assistant: Assistant
    service: EngineService
    defaults: Mapping[bool, SamplingSettings]
    context_tokens: int
    adapters: dict[str, ServedAdapter] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)

    def admitted(self, request: Request) -> Request:
        """Return the request with room for its answer. Raises what the engine would."""
        return admitted(
            request,
            vocab_size=self.assistant.loaded.config.vocab_size,
            context_tokens=self.context_tokens,
        )


@dataclass(kw_only=True)
class ServerState:
    """The state of one server; changes only on the event loop.

    serving: None while the model loads. adapter_lock: held while an adapter is being loaded.
    long_texts, grammars: held while a long text is tokenized or a grammar compiled, so that threads
    and memory are left for others.
    """

    settings: ServeSettings
    adapter_folders: AdapterFolders
    serving: Serving | None = None
    is_stopping: bool = False
    figures: PrometheusFigures = field(default_factory=PrometheusFigures)
    adapter_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    long_texts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    grammars: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    @classmethod
    def of(cls, settings: ServeSettings, serving: Serving | None = None) -> ServerState:
        """Make the state of a new server. Raises UsageError for adapters that are not there."""
        folders = AdapterFolders.of(
            settings.adapter, settings.adapter_dir, settings.served_model_name
        )
        return cls(settings=settings, adapter_folders=folders, serving=serving)


@dataclass(kw_only=True)
class RequestRecord:
    """What is known about one HTTP request.

    started: on the monotonic clock, in seconds. key: the name of the key that was shown, "" where
    none is needed. headers: those that every answer to it gets. status: 0 until the answer begins.
    """

    id: str = field(default_factory=lambda: f"req-{secrets.token_hex(12)}")
    started: float = field(default_factory=time.monotonic)
    key: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def state_of(app: Starlette) -> ServerState:
    """Return an application's state, which `create_app` attached."""
    state: ServerState = app.state.server
    return state


def open_record(scope: Scope) -> RequestRecord:
    """Begin the record of a request."""
    record = RequestRecord()
    scope.setdefault("state", {})["record"] = record
    return record


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of a request."""
    record: RequestRecord = scope["state"]["record"]
    return record
