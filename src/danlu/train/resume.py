"""Going on with a run: from which checkpoint, and whether it would still be the same run."""

from __future__ import annotations

from typing import Any

from danlu.errors import UsageError
from danlu.language import _
from danlu.runs.checkpoints import find_newest
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import RunManifest
from danlu.train.events import Resumed

# Settings that a resumed run may change: they do not touch the numbers.
_FREE_TO_CHANGE = {
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "output_dir",
}


def newest_to_resume(folder: RunFolder, manifest: RunManifest) -> Resumed:
    """Find the checkpoint to go on from; refuse where the run would become another one."""
    before = folder.read()
    changes = _differences(before, manifest)
    if changes:
        raise UsageError(
            _("The run in {path} cannot be resumed like this.").format(path=folder.path),
            why=_("These have changed: {changes}.").format(changes="; ".join(changes)),
            fix=_("Use the settings and data of run.json, or another --output_dir."),
        )
    search = find_newest(folder.path)
    if search.newest is None:
        raise UsageError(
            _("The run in {path} has no checkpoint to resume from.").format(path=folder.path),
            why=_("It was stopped before its first checkpoint, or all are damaged."),
            fix=_("Start it again with --overwrite_output_dir"),
        )
    damaged = tuple(problem.what for problem in search.damaged)
    return Resumed(step=search.newest.step, damaged=damaged)


def _differences(before: RunManifest, now: RunManifest) -> list[str]:
    """List what differs and matters, as `name: old -> new`."""
    pairs: list[tuple[str, Any, Any]] = [
        ("base model", before.base.fingerprint, now.base.fingerprint),
        *(
            (name, before.settings.get(name), value)
            for name, value in now.settings.items()
            if name not in _FREE_TO_CHANGE
        ),
        *(
            (name, before.arithmetic.get(name), now.arithmetic[name])
            for name in ("device", "dtype", "threads")
        ),
        ("data", before.arithmetic.get("data_fingerprint"), now.arithmetic["data_fingerprint"]),
    ]
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new]
