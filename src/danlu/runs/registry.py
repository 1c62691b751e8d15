"""The list of runs on this machine, so that a run can be found wherever its folder lies.

One small file a run in DANLU_HOME/runs says where the folder is; the folder itself is the truth.
Losing the list loses nothing but the list.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import AmbiguousName, DanluError, UsageError
from danlu.files.atomic import atomic_write, make_folder
from danlu.files.home import danlu_home
from danlu.files.json_file import read_json_file
from danlu.files.lock import holder_of
from danlu.language import _
from danlu.runs.manifest import RunManifest, is_run, read_manifest
from danlu.runs.metrics import read_metrics
from danlu.text.printable import printable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands. state: as in run.json, or `died` for one whose process is gone.

    loss and eval_loss are the last ones. is_held: somebody writes to it now; pid: this process,
    None where it cannot be seen from here.
    """

    path: Path
    state: str
    detail: str
    kind: str
    base: str
    step: int
    loss: float | None
    eval_loss: float | None
    size_bytes: int
    started: str
    ended: str
    is_held: bool
    pid: int | None


def register(folder: Path) -> None:
    """Add a run's folder to the list; a home that cannot be written is no reason to stop."""
    entries = danlu_home() / "runs"
    with suppress(DanluError):
        make_folder(entries)
        atomic_write(entries / f"{run_id(folder)}.json", json.dumps({"path": str(folder)}) + "\n")


def run_id(folder: Path) -> str:
    """Name a run in the list: 16 signs, made of the path of its folder."""
    return hashlib.blake2b(str(folder).encode(), digest_size=8).hexdigest()


def registered_folders() -> list[Path]:
    """Return the folders of all runs that were started, also of those that are gone."""
    folders = []
    for entry in sorted((danlu_home() / "runs").glob("*.json")):
        with _warning():
            record = read_json_file(entry, fix=f"rm {shlex.quote(str(entry))}")
            path = record.text("path")
            if "\0" in path or not path.startswith("/"):
                raise record.broken("path")
            os.fsencode(path)
            folders.append(Path(path))
    return folders


def registered_runs() -> Iterator[tuple[Path, RunManifest]]:
    """Yield the folders and records of all runs that still exist, without what takes longer."""
    for folder in registered_folders():
        with _warning():
            if is_run(folder):
                yield folder, read_manifest(folder)


def list_runs() -> list[RunStatus]:
    """Return all runs that still exist, the newest first."""
    found = []
    for folder in registered_folders():
        with _warning():
            if is_run(folder):
                found.append(status_of(folder))
    return sorted(found, key=lambda run: run.started, reverse=True)


@contextmanager
def _warning() -> Iterator[None]:
    """Warn of a run that cannot be read; the others are shown."""
    try:
        yield
    except (DanluError, OSError, UnicodeError) as fault:
        reason = " ".join(str(fault).splitlines()[:2])
        _log.warning(printable(_("A run is not shown. {reason}").format(reason=reason)))


def find_run(name: str) -> Path:
    """Return the folder of a run given by its path or by its folder's name.

    Raises UsageError where there is none, or more than one.
    """
    path = Path(name).expanduser().absolute()
    if is_run(path):
        return path
    named = [run.path for run in list_runs() if run.path.name == name]
    if len(named) == 1:
        return named[0]
    if named:
        raise AmbiguousName(
            _("There are {count} runs named {name}.").format(count=len(named), name=name),
            name=name,
            choices=[str(path) for path in named],
            why=", ".join(str(path) for path in named),
            fix=_("Give the path of one of them."),
        )
    raise UsageError(
        _("There is no run {name}.").format(name=name),
        why=_("It is neither a run's folder nor the name of one that this machine knows."),
        fix="danlu runs",
    )


def status_of(folder: Path) -> RunStatus:
    """Read how a run stands. Raises UsageError or DataError where run.json cannot be read."""
    run = read_manifest(folder)
    records = read_metrics(folder)
    holder = holder_of(folder)
    state = "died" if run.state == "running" and holder is None else run.state
    return RunStatus(
        path=folder,
        state=state,
        detail=run.detail,
        kind=run.kind,
        base=run.base.name,
        step=records[-1]["step"] if records else 0,
        loss=_last(records, "loss"),
        eval_loss=_last(records, "eval_loss"),
        size_bytes=size_of(folder),
        started=run.started,
        ended=run.ended,
        is_held=holder is not None,
        pid=holder.pid if holder else None,
    )


def shown_state(state: str, detail: str = "") -> str:
    """Write a state and what explains it for people; an error's text stays as it is."""
    shown = {
        "running": _("running"),
        "finished": _("finished"),
        "stopped": _("stopped by itself"),
        "interrupted": _("interrupted"),
        "failed": _("failed"),
        "died": _("died"),
    }.get(state, state)
    counted = re.fullmatch(r"(?:at step )?(\d+)(?: steps)?", detail)
    if counted:
        detail = _("step {step}").format(step=counted[1])
    return _("{state}, {detail}").format(state=shown, detail=detail) if detail else shown


def _last(records: list[dict[str, object]], key: str) -> float | None:
    values = [value for record in records if isinstance(value := record.get(key), float)]
    return values[-1] if values else None


def size_of(path: Path) -> int:
    """Sum the files of a folder, or take the one file; what vanishes meanwhile does not count."""
    # os.walk passes over folders that are gone: checkpoints come and go beside whoever looks.
    inside = [Path(folder, name) for folder, _folders, names in os.walk(path) for name in names]
    total = 0
    for file in (path, *inside):
        with suppress(OSError):
            if file.is_file() and not file.is_symlink():
                total += file.stat().st_size
    return total
