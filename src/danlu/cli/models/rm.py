"""`danlu rm`: remove a pulled model, after asking, unless something needs it now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from danlu.cli.terminal.asking import agreed
from danlu.errors import EXIT_OK, UsageError
from danlu.files.committed import discard
from danlu.files.lock import holder_of
from danlu.files.units import readable_bytes
from danlu.hub.names import default_name
from danlu.hub.store import StoredModel, models_folder, stored_models
from danlu.language import _
from danlu.runs.manifest import read_manifest
from danlu.runs.registry import RunStatus, list_runs
from danlu.say import say
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings


class RmSettings(Settings):
    """Remove a model that danlu pull has downloaded, whole or in part."""

    name: str = option(..., "a model that danlu models shows as here", position=0)
    yes: bool = option(False, "do not ask")


def run(argv: Sequence[str]) -> int:
    """Say what would go, ask, and remove it."""
    resolved = read_settings(RmSettings, "rm", argv)
    settings = resolved.values
    models = _named(settings.name)
    runs = [run for run in list_runs() if _is_base(models, run)]
    for model in models:
        _refuse_used(model, runs)
    size = readable_bytes(sum(model.num_bytes for model in models))
    for model in models:
        say(f"{readable_bytes(model.num_bytes):>9}  {model.folder}")
    if runs:
        names = ", ".join(run.path.name for run in runs)
        say(
            _("These runs were trained on it and cannot be used without it: {names}").format(
                names=names
            )
        )
    if not settings.yes and not _agreed(settings.name):
        say(_("Nothing was removed."))
        return EXIT_OK
    for model in models:
        discard(model.folder)
    say(_("Removed: {name}, {size}").format(name=models[0].name, size=size))
    return EXIT_OK


def _named(name: str) -> list[StoredModel]:
    """Find what was pulled under a name. Raises UsageError."""
    wanted = name.lower().rpartition("/")[2]
    found = [model for model in stored_models() if model.name.lower() == wanted]
    is_path = name.startswith((".", "~", "/"))
    if not found or is_path:
        here = ", ".join(model.name for model in stored_models())
        why = _("{folder} holds none. Other folders are yours to remove.")
        if here:
            why = _("{folder} holds: {names}. Other folders are yours to remove.")
        raise UsageError(
            _("There is no pulled model {name}.").format(name=name),
            why=why.format(folder=models_folder(), names=here),
            fix="danlu models",
        )
    return found


def _is_base(models: Sequence[StoredModel], run: RunStatus) -> bool:
    path = Path(read_manifest(run.path).base.path)
    return any(path == model.folder for model in models)


def _refuse_used(model: StoredModel, runs: Sequence[RunStatus]) -> None:
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
    for run in runs:
        if run.is_held:
            raise UsageError(
                _("{name} is not removed.").format(name=model.name),
                why=_("The run {path} is being trained on it.").format(path=run.path),
                fix=f"danlu runs stop {run.path.name}",
            )


def _agreed(name: str) -> bool:
    refusal = UsageError(
        _("{name} is not removed.").format(name=name),
        why=_("Nobody can be asked: the input is not a terminal."),
        fix=f"danlu rm {name} --yes",
    )
    return agreed(_("Remove it? [y/N] "), refusal)
