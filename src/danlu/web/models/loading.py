"""Which model the studio has loaded, and exchanging it for another one.

One model at a time: the old one leaves the memory before the new one is read. Answers that run end
with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from danlu.device.memory import free_cache
from danlu.errors import DanluError
from danlu.reasons import reason_of
from danlu.server.lifecycle.opening import open_serving
from danlu.server.served_adapters import AdapterFolders
from danlu.server.state import ServerState, Serving
from danlu.web.models.model_list import KnownModel


@dataclass(frozen=True, kw_only=True)
class LoadedState:
    """How the loading stands. done, total: bytes; state: none, loading, ready or failed."""

    state: str
    model: str = ""
    detail: str = ""
    done: int = 0
    total: int = 0
    context: int = 0

    def fields(self) -> dict[str, Any]:
        """Write it for a page."""
        return asdict(self)


@dataclass(kw_only=True)
class ModelLoading:
    """The model of one studio.

    lock: held while it is exchanged. forget_voices: lets go of what belongs to the model.
    """

    server: ServerState
    forget_voices: Callable[[], None] = lambda: None
    state: LoadedState = field(default_factory=lambda: LoadedState(state="loading"))
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _first: Path | None = None

    def shows(self, what: str, done: int, total: int) -> None:
        """Take what a loading thread says about its progress."""
        self.state = replace(self.state, detail=what, done=done, total=total)

    def begins(self, model: str) -> None:
        """Say that a model is being read."""
        self.state = LoadedState(state="loading", model=model)

    def has(self, serving: Serving) -> None:
        """Take a model that was loaded; on the event loop."""
        self.server.serving = serving
        self._first = self._first or serving.assistant.loaded.folder
        self.state = LoadedState(
            state="ready",
            model=serving.name,
            context=serving.context_tokens,
        )

    def failed(self, problem: BaseException) -> None:
        """Say why no model is there."""
        known = isinstance(problem, DanluError)
        detail = str(problem) if known else reason_of(problem)
        self.state = LoadedState(state="failed", model=self.state.model, detail=detail)

    @property
    def is_busy(self) -> bool:
        """Whether a model is being read, or leaves the memory."""
        return self.state.state == "loading" or self.lock.locked()

    async def eject(self) -> None:
        """Let go of the model, so that its memory is free."""
        async with self.lock:
            await self._ejected()
            self.state = LoadedState(state="none")

    async def exchange(self, model: KnownModel) -> None:
        """Load another model in place of the one that is there.

        The adapters that were given at the start come back with the model that they were given for.
        """
        async with self.lock:
            self.begins(model.name)
            await self._ejected()
            settings = self.server.settings.model_copy(
                update={"model_name_or_path": model.word, "served_model_name": model.name}
            )
            is_first = model.folder == self._first
            folders = self.server.adapter_folders if is_first else AdapterFolders()
            try:
                self.has(await asyncio.to_thread(open_serving, settings, folders, self.shows))
            except Exception as problem:
                self.failed(problem)

    async def _ejected(self) -> None:
        serving, self.server.serving = self.server.serving, None
        self.forget_voices()
        if serving is None:
            return
        await asyncio.to_thread(serving.service.stop)
        device = serving.assistant.loaded.device.torch_device
        del serving
        await asyncio.to_thread(free_cache, device)
