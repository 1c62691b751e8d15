"""Runs that learned taught rows, each with what it changed: better answers, and what was forgotten.

The figures are those of the run's report; where it has none, that is said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.errors import DanluError
from danlu.files.json_file import read_json_file
from danlu.runs.manifest import RunManifest
from danlu.runs.registry import registered_folders, registered_runs, run_id, status_of
from danlu.web.data.data_folders import UPLOAD_FILE, sets_folder
from danlu.web.training.training_choice import runs_home
from danlu.workflows.report.report import JSON_FILE

Json = dict[str, Any]
PREFIX = "taught-"
_MOST_SHOWN = 20


def free_name() -> str:
    """Return the name of the next run: taught-1, taught-2."""
    names = {folder.name for folder in registered_folders()}
    names |= {folder.name for folder in runs_home().glob(f"{PREFIX}*")}
    number = 1
    while f"{PREFIX}{number}" in names:
        number += 1
    return f"{PREFIX}{number}"


def taught_runs() -> list[Json]:
    """Describe the runs that learned taught rows, the newest first."""
    runs = [one for one in registered_runs() if one[0].name.startswith(PREFIX)]
    runs.sort(key=lambda one: one[1].started, reverse=True)
    return [
        {
            "id": run_id(folder),
            "voice": f"run:{run_id(folder)}",
            "name": folder.name,
            "state": status_of(folder).state,
            "started": run.started,
            "old": old_voice(run),
            **_mix(run),
            "report": _report(folder),
        }
        for folder, run in runs[:_MOST_SHOWN]
    ]


def old_voice(run: RunManifest) -> str:
    """Name who was corrected: the base, or the run that this one went on with."""
    adapter = run.settings.get("adapter_name_or_path")
    for folder in registered_folders() if adapter else ():
        if Path(str(adapter)).is_relative_to(folder):
            return f"run:{run_id(folder)}"
    return "base"


def _mix(run: RunManifest) -> Json:
    """Return how many rows were taught and repeated; only of mixes that are still there."""
    folder = Path(str(run.settings.get("dataset_dir") or ""))
    fields: Any = {}
    if folder.parent == sets_folder() and (folder / UPLOAD_FILE).is_file():
        try:
            fields = read_json_file(folder / UPLOAD_FILE, fix="").fields
        except DanluError:
            fields = {}
    taught, older = (fields.get(name) for name in ("taught", "older"))
    return {"taught": taught or run.data.num_train_rows, "older": older or 0}


def _report(folder: Path) -> Json | None:
    """Return the verdict of a run's report: losses and general prompts, before and after."""
    file = folder / JSON_FILE
    if not file.is_file():
        return None
    try:
        fields = read_json_file(file, fix="").fields["figures"]
    except (DanluError, KeyError):
        return None
    if not isinstance(fields, dict):
        return None
    loss, pairs = fields.get("loss"), fields.get("probe") or ()
    finished = [
        pair for pair in pairs if isinstance(pair, list) and len(pair) == 2 and None not in pair
    ]
    verdict = fields.get("verdict")
    return {
        "held_out": fields.get("held_out") is True,
        "loss": loss if isinstance(loss, list) and len(loss) == 2 else None,
        "rows": fields.get("rows", 0),
        "probe": {
            "asked": len(finished),
            "before": sum(bool(pair[0]) for pair in finished),
            "after": sum(bool(pair[1]) for pair in finished),
        },
        "verdict": [str(line) for line in verdict] if isinstance(verdict, list) else [],
    }
