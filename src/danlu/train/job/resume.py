"""Resuming a run: from which checkpoint, and whether it would still be the same run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from danlu.errors import UsageError
from danlu.files.committed import retire, verify
from danlu.language import _
from danlu.runs.checkpoints import find_newest, list_checkpoints
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import RunManifest, is_run, read_manifest
from danlu.train.events import Resumed

# Settings that a resumed run may change: they do not touch the numbers.
_FREE_TO_CHANGE = {
    "overwrite_output_dir",
    "overwrite_cache",
    "resume_from_checkpoint",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "logging_dir",
    "plot_loss",
    "report",
    "report_to",
    "num_devices",
    "output_dir",
    "preset",
}
# What settings mean that a run.json does not have, because it is older than they are.
_ABSENT = {"fp8": False}


def check_own_checkpoint(folder: Path, wanted: str) -> None:
    """Raise UsageError where the checkpoint that is named lies in another run's folder."""
    checkpoint = Path(wanted).expanduser().absolute()
    run = checkpoint if is_run(checkpoint) else checkpoint.parent
    if run.resolve() == folder.resolve() or Path(wanted).name == wanted:
        return  # of this run; whether it is there is looked up later
    if not checkpoint.is_dir():
        raise UsageError(
            _("{path} does not exist.").format(path=checkpoint),
            why=_("There is no such file or folder."),
            fix=_("For the newest checkpoint of the output folder: --resume_from_checkpoint true"),
        )
    if not is_run(run):
        raise UsageError(
            _("{checkpoint} belongs to no run of danlu.").format(checkpoint=checkpoint),
            why=_("Only danlu's own checkpoints hold what a run needs to go on."),
            fix=_("Begin a new run from its weights: --adapter {checkpoint}").format(
                checkpoint=shlex.quote(wanted)
            ),
        )
    named = "true" if run == checkpoint else checkpoint.name
    begins = "--model" if read_manifest(run).kind == "full" else "--adapter"
    raise UsageError(
        _("{checkpoint} belongs to the run {run}.").format(checkpoint=wanted, run=run),
        why=_("A run goes on in its own folder; --output_dir names {folder}.").format(
            folder=folder
        ),
        fix=_(
            "To go on with it: --output_dir {run} --resume_from_checkpoint {named}; to begin a new "
            "run from it, instead of --resume_from_checkpoint: {begins} {checkpoint}"
        ).format(
            run=shlex.quote(str(run)), named=named, begins=begins, checkpoint=shlex.quote(wanted)
        ),
    )


def checkpoint_to_resume(folder: RunFolder, manifest: RunManifest, wanted: bool | str) -> Resumed:
    """Choose the checkpoint to resume from.

    manifest: of this command. wanted: true for the newest good one, or the name or path of one of
    this run; later ones are then moved to the trash. Raises UsageError where settings or data have
    changed or no such checkpoint exists, DataError where the wanted one is damaged.
    """
    before = folder.read()
    changes = _differences(before, manifest)
    if changes:
        raise UsageError(
            _("The run in {path} cannot be resumed like this.").format(path=folder.path),
            why=_("These have changed: {changes}.").format(changes="; ".join(changes)),
            fix=_(
                "Use the settings and data of run.json; or begin a new run with what it learned: "
                "--adapter {path} --output_dir NEW"
            ).format(path=shlex.quote(str(folder.path))),
        )
    if isinstance(wanted, str):
        return _named_checkpoint(folder.path, wanted)
    search = find_newest(folder.path)
    if search.newest is None:
        raise UsageError(
            _("The run in {path} has no checkpoint to resume from.").format(path=folder.path),
            why=_("It was stopped before its first checkpoint, or all are damaged."),
            fix=_("Start it again with --overwrite_output_dir"),
        )
    damaged = tuple(problem.what for problem in search.damaged)
    return Resumed(step=search.newest.step, damaged=damaged)


def _named_checkpoint(folder: Path, wanted: str) -> Resumed:
    """Find a checkpoint of this run by name or path."""
    name = Path(wanted).name
    checkpoints = {checkpoint.path.name: checkpoint for checkpoint in list_checkpoints(folder)}
    chosen = checkpoints.get(name)
    elsewhere = "/" in wanted and Path(wanted).expanduser().resolve() != (folder / name).resolve()
    if chosen is None or elsewhere:
        raise UsageError(
            _("The run in {path} has no checkpoint {name}.").format(path=folder, name=wanted),
            why=_("It has: {names}.").format(names=", ".join(checkpoints) or _("none")),
            fix=_("Name one of these, or true for the newest; a run goes on in its own folder."),
        )
    verify(chosen.path)
    for later in checkpoints.values():
        if later.step > chosen.step:
            retire(later.path)
    return Resumed(step=chosen.step, damaged=())


def _differences(before: RunManifest, now: RunManifest) -> list[str]:
    """List what differs and matters, as `name: old -> new`."""
    pairs: list[tuple[str, Any, Any]] = [
        ("base model", before.base.fingerprint, now.base.fingerprint),
        *(
            (name, before.settings.get(name, _ABSENT.get(name)), value)
            for name, value in now.settings.items()
            if name not in _FREE_TO_CHANGE
        ),
        ("device", before.arithmetic.device, now.arithmetic.device),
        ("dtype", before.arithmetic.dtype, now.arithmetic.dtype),
        ("threads", before.arithmetic.threads, now.arithmetic.threads),
        ("data", before.data.fingerprint, now.data.fingerprint),
    ]
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new]
