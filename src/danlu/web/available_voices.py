"""Who can answer in the studio: the loaded model, adapters given at the start, and runs.

A page names a voice by its id; no path ever comes from a browser. Ids: `base`, the name of an
adapter of the server, `run:ID` for what a run ended with, `run:ID@STEP` for a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.errors import UsageError
from danlu.hub.adapters import find_adapter
from danlu.language import _
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import RunManifest, is_run
from danlu.runs.registry import registered_folders, registered_runs, run_id
from danlu.server.requested_model import RequestedModel
from danlu.server.served_adapters import ServedAdapter, load_served_adapter
from danlu.server.state import ServerState, Serving

BASE = "base"
RUN = "run:"
# Adapters that stay loaded besides the server's own; the one unused longest goes first.
_MOST_OPEN = 16


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One who can answer. base: the name of the model that it needs; fits: it is the loaded one."""

    id: str
    name: str
    base: str
    fits: bool

    def fields(self) -> dict[str, Any]:
        """Write it for a page."""
        return asdict(self)


class AvailableVoices:
    """Lists the voices, and opens the one that is asked for."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._open: dict[tuple[int, str, str], ServedAdapter] = {}
        self._scaled: dict[tuple[int, float], ServedAdapter] = {}

    def all(self) -> Iterator[Voice]:
        """Yield the loaded model, its adapters, and every run; reads the runs' folders."""
        serving = self._state.serving
        name = serving.name if serving else ""
        yield Voice(id=BASE, name=name, base=name, fits=serving is not None)
        for adapter in serving.adapters if serving else ():
            yield Voice(id=adapter, name=adapter, base=name, fits=True)
        runs = sorted(registered_runs(), key=lambda found: found[1].started, reverse=True)
        for folder, run in runs:
            if run.kind == "lora" and _has_adapter(folder):
                yield Voice(
                    id=f"{RUN}{run_id(folder)}",
                    name=folder.name,
                    base=run.base.name,
                    fits=serving is not None and _is_base(serving, run),
                )

    def answering(self, voice: str, strength: float = 1.0) -> RequestedModel:
        """Return who answers; loads an adapter, which takes seconds, so not on the event loop.

        Raises UsageError for a voice that is not there or needs another model, and what loading an
        adapter raises.
        """
        serving = self._state.serving
        if serving is None:
            raise UsageError(
                _("No model is loaded."),
                why=_("An answer needs one."),
                fix=_("Load one on the page of models."),
            )
        if voice == BASE:
            return RequestedModel(name=serving.name, prompting=serving.assistant.prompting)
        served = serving.adapters.get(voice) or self._of_run(serving, voice)
        adapter = served.adapter
        if strength != 1.0:
            # The same object for the same strength: what the cache holds belongs to an adapter.
            key = (id(adapter), strength)
            if key not in self._scaled:
                while len(self._scaled) >= _MOST_OPEN:
                    self._scaled.pop(next(iter(self._scaled)))
                self._scaled[key] = ServedAdapter(
                    folder=served.folder,
                    adapter=adapter.scaled(strength),
                    prompting=served.prompting,
                )
            adapter = self._scaled[key].adapter
        return RequestedModel(name=voice, prompting=served.prompting, adapter=adapter)

    def forget(self) -> None:
        """Let go of the adapters of a model that leaves the memory."""
        self._open.clear()
        self._scaled.clear()

    def _of_run(self, serving: Serving, voice: str) -> ServedAdapter:
        # Of a run that was stopped, that is its newest good checkpoint.
        folder = find_adapter(str(adapter_folder(voice))).folder
        stamp = str(max(file.stat().st_mtime_ns for file in folder.glob("*.safetensors")))
        key = (id(serving), voice, stamp)
        served = self._open.pop(key, None)
        if served is None:
            served = load_served_adapter(folder, serving.assistant.loaded, self._state.settings)
        while len(self._open) >= _MOST_OPEN:
            self._open.pop(next(iter(self._open)))
        self._open[key] = served
        return served


def run_folder(id_of_run: str) -> Path:
    """Return the folder of a registered run. Raises UsageError where there is none."""
    for folder in registered_folders():
        if run_id(folder) == id_of_run and is_run(folder):
            return folder
    raise UsageError(
        _("There is no such run."),
        why=_("It may have been removed."),
        fix=_("Load the list of runs again."),
    )


def adapter_folder(voice: str) -> Path:
    """Return the folder that a run's voice, or that of a checkpoint, stands for.

    Raises UsageError for one that is not there.
    """
    if not voice.startswith(RUN):
        raise UsageError(
            _("There is no voice {name}.").format(name=repr(voice[:80])),
            why=_("It is none of this server's adapters, and no run."),
            fix=_("Choose another one."),
        )
    id_of_run, _at, step = voice.removeprefix(RUN).partition("@")
    folder = run_folder(id_of_run)
    for checkpoint in list_checkpoints(folder) if step else ():
        if str(checkpoint.step) == step:
            return checkpoint.path
    return folder if not step else _gone(step)


def _gone(step: str) -> Path:
    raise UsageError(
        _("There is no checkpoint of step {step}.").format(step=step[:20]),
        why=_("It was removed, or never saved."),
        fix=_("Choose another one."),
    )


def _has_adapter(run: Path) -> bool:
    return (run / "final").is_dir() or any(run.glob("checkpoint-*"))


def _is_base(serving: Serving, run: RunManifest) -> bool:
    loaded = serving.assistant.loaded
    return run.base.name in (loaded.name, serving.name) or Path(run.base.path) == loaded.folder
