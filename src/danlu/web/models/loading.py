"""Which model the studio has loaded, and exchanging it for another one.

One model at a time: the old one leaves the memory before the new one is read. Answers that run end
with it.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from danlu.errors import DanluError
from danlu.reasons import reason_of
from danlu.server.lifecycle.opening import describe, model_of, open_serving
from danlu.server.served_adapters import AdapterFolders
from danlu.server.state import ServerState, Serving


@dataclass(frozen=True, kw_only=True)
class LoadedState:
    """How the loading stands. done, total: bytes; state: none, loading, ready or failed."""

    state: str
    model: str = ""
    detail: str = ""
    done: int = 0
    total: int = 0
    context: int = 0
    lines: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Write it for a page."""
        return asdict(self)


@dataclass(kw_only=True)
class ModelLoading:
    """The model of one studio. lock: held while it is exchanged."""

    server: ServerState
    state: LoadedState = field(default_factory=lambda: LoadedState(state="loading"))
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def shows(self, what: str, done: int, total: int) -> None:
        """Take what a loading thread says about its progress."""
        self.state = replace(self.state, detail=what, done=done, total=total)

    def begins(self, model: str) -> None:
        """Say that a model is being read."""
        self.state = LoadedState(state="loading", model=model)

    def has(self, serving: Serving) -> None:
        """Take a model that was loaded; on the event loop."""
        self.server.serving = serving
        self.state = LoadedState(
            state="ready",
            model=serving.name,
            context=serving.context_tokens,
            lines=tuple(describe(serving)),
        )

    def failed(self, problem: BaseException) -> None:
        """Say why no model is there."""
        known = isinstance(problem, DanluError)
        detail = str(problem) if known else reason_of(problem)
        self.state = LoadedState(state="failed", model=self.state.model, detail=detail)

    async def eject(self) -> None:
        """Let go of the model, so that its memory is free."""
        async with self.lock:
            await self._ejected()

    async def exchange(self, model: str) -> None:
        """Load another model in place of the one that is there."""
        async with self.lock:
            await self._ejected()
            self.begins(model)
            settings = self.server.settings.model_copy(
                update={"model_name_or_path": model, "served_model_name": None, "adapter": ()}
            )
            try:
                self.has(
                    await asyncio.to_thread(open_serving, settings, AdapterFolders(), self.shows)
                )
            except Exception as problem:
                self.failed(problem)

    async def _ejected(self) -> None:
        serving, self.server.serving = self.server.serving, None
        self.state = LoadedState(state="none")
        if serving is not None:
            await asyncio.to_thread(serving.service.stop)


def first_model(server: ServerState) -> str:
    """Name the model that the studio begins with. Raises UsageError."""
    return model_of(server.settings, server.adapter_folders)
