"""The models of a run: what it started from and what it made, as settings that open them."""

from __future__ import annotations

from pathlib import Path

from danlu.dialog.settings import ModelSettings
from danlu.errors import DanluError, UsageError
from danlu.hub.adapters import find_adapter
from danlu.hub.names import STARTER
from danlu.language import _
from danlu.runs.checkpoints import FINAL, find_newest
from danlu.runs.manifest import RunManifest, read_manifest
from danlu.runs.resuming import resume_command


def base_name(run: RunManifest) -> str:
    """Name the model a run started from."""
    return run.base.name if run.base.name == STARTER else run.base.path


def adapter_before(run: RunManifest) -> tuple[Path | None, str]:
    """Return the adapter that a run trained further, None for a new one, or why it is not there."""
    name = run.settings.get("adapter_name_or_path")
    if run.kind == "full" or not name:
        return None, ""
    place = Path(run.cwd or "", str(name))
    word = str(place) if place.exists() else str(name)
    try:
        find_adapter(word)
    except DanluError as problem:
        return None, problem.what
    return Path(word), ""


def tuned_settings(run_folder: Path, wanted: ModelSettings) -> ModelSettings:
    """Return `wanted` completed to open what a run made: its adapter, or its fully trained model.

    An unfinished run gives its newest good checkpoint; a base, device and dtype in `wanted` are
    kept. Raises UsageError where the run has made nothing yet.
    """
    run = read_manifest(run_folder)
    if run.kind != "full":
        return wanted.model_copy(
            update={
                "model_name_or_path": wanted.model_name_or_path or base_name(run),
                "adapter_name_or_path": str(run_folder),
            }
        )
    folder = run_folder / FINAL
    if not folder.is_dir():
        newest = find_newest(run_folder).newest
        if newest is None:
            raise UsageError(
                _("The run {folder} holds no weights yet.").format(folder=run_folder),
                why=_("It was stopped before its first checkpoint."),
                fix=resume_command(run_folder, run),
            )
        folder = newest.path
    return wanted.model_copy(
        update={"model_name_or_path": str(folder), "adapter_name_or_path": None}
    )
