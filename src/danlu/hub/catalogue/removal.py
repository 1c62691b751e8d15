"""Removing a pulled model: which one is meant, which runs need it, and what forbids it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from danlu.errors import UsageError
from danlu.files.lock import holder_of
from danlu.hub.adapters import place_of
from danlu.hub.names import default_name
from danlu.hub.store import StoredModel, models_folder, stored_models
from danlu.language import _
from danlu.runs.manifest import is_run, read_manifest
from danlu.runs.registry import RunStatus, list_runs


def pulled_under(name: str) -> list[StoredModel]:
    """Find what was pulled under a name, whole or in part. Raises UsageError."""
    wanted = name.lower().rpartition("/")[2]
    found = [model for model in stored_models() if model.name.lower() == wanted]
    is_path = name.startswith((".", "~", "/"))
    if not found or is_path:
        here = ", ".join(model.name for model in stored_models())
        why = _("{folder} holds none. Other folders are yours to remove.")
        if here:
            why = _("{folder} holds: {names}. Other folders are yours to remove.")
        run = place_of(name)
        raise UsageError(
            _("There is no pulled model {name}.").format(name=name),
            why=why.format(folder=models_folder(), names=here),
            fix=f"rm -r {shlex.quote(str(run))}" if is_run(run) else "danlu models",
        )
    return found


def trained_on(folders: Sequence[Path]) -> list[RunStatus]:
    """List the runs whose base is one of these folders."""
    return [run for run in list_runs() if Path(read_manifest(run.path).base.path) in folders]


def refuse_used(model: StoredModel, runs: Sequence[RunStatus]) -> None:
    """Raise UsageError for the default model, one being pulled, and one being trained on."""
    if model.is_complete and default_name() == model.name:
        raise UsageError(
            _("{name} is not removed.").format(name=model.name),
            why=_("It is the default model."),
            fix="danlu use starter",
        )
    if not model.is_complete and holder_of(model.folder) is not None:
        raise UsageError(
            _("{name} is not removed.").format(name=model.name),
            why=_("It is being pulled right now."),
            fix=_("Stop the pull with Ctrl-C first."),
        )
    refuse_trained_on(model.name, runs)


def refuse_trained_on(name: str, runs: Sequence[RunStatus]) -> None:
    """Raise UsageError for a model that one of these runs is being trained on."""
    for run in runs:
        if run.is_held:
            raise UsageError(
                _("{name} is not removed.").format(name=name),
                why=_("The run {path} is being trained on it.").format(path=run.path),
                fix=f"danlu runs stop {shlex.quote(run.path.name)}",
            )
