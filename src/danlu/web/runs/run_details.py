"""All that a page shows of one run: what it is made of, its checkpoints, how to go on with it."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from danlu.errors import DanluError
from danlu.files.json_file import read_json_file
from danlu.program import as_typed
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import RunManifest, read_manifest
from danlu.runs.registry import size_of
from danlu.runs.resuming import resume_command
from danlu.settings.option_names import DEFAULT, shown_origin
from danlu.web.data.registered import learned_set
from danlu.web.runs.resume_proof import proofs_of
from danlu.web.studio import Studio
from danlu.web.training.queue import QueueEntry

Json = dict[str, Any]
_REPORT = "report.json"


def details_of(studio: Studio, folder: Path) -> Json:
    """Describe a run. Raises UsageError and DataError where run.json cannot be read."""
    run = read_manifest(folder)
    card = studio.runs.card(folder)
    entry = studio.queue.of_run(card["id"])
    return {
        **card,
        **activity(card, entry),
        "folder": str(folder),
        "settings": _settings(run),
        "dataset": learned_set(studio, run.settings),
        "data": run.data.model_dump(mode="json"),
        "arithmetic": run.arithmetic.model_dump(mode="json"),
        "results": run.results,
        "timings": run.timings,
        "versions": run.versions,
        "plan": run.plan,
        "checkpoints": _checkpoints(folder),
        "has_report": (folder / _REPORT).is_file(),
        "proofs": proofs_of(run, studio.runs.tables.of(folder)),
        "command": as_typed(resume_command(folder, run)),
        "log": studio.queue.log_tail(entry.id) if entry else None,
    }


def waiting_card(entry: QueueEntry) -> Json:
    """Describe a run that has no folder yet: its training waits, begins, or has failed to."""
    return {
        "id": entry.run,
        "name": entry.folder.name,
        "title": entry.folder.name,
        "note": "",
        "state": "starting" if entry.state == "running" else entry.state,
        "detail": entry.detail,
        "kind": entry.settings.get("finetuning_type", "lora"),
        "base": Path(str(entry.settings.get("model_name_or_path", ""))).name,
        "step": 0,
        "total": None,
        "loss": None,
        "eval_loss": None,
        "best_eval_loss": None,
        "size_bytes": 0,
        "started": "",
        "ended": "",
        "spark": [],
        "has_result": False,
        "entry": entry.id,
        "entry_state": entry.state,
    }


def activity(card: Json, entry: QueueEntry | None) -> Json:
    """Say what goes on with a run beside what its folder says: it waits, or is about to begin."""
    if entry is None or entry.is_over:
        return {"entry": None, "entry_state": None}
    state = card["state"]
    if entry.state == "waiting":
        state = "waiting"
    elif state in ("finished", "interrupted", "stopped", "failed", "died"):
        # Its process has ended it and writes the report, or resumes it and reads the model.
        ended = datetime.fromisoformat(card["ended"]).timestamp() if card["ended"] else 0.0
        state = "ending" if ended >= int(entry.started or 0.0) else "starting"
    return {"entry": entry.id, "entry_state": entry.state, "state": state}


def report_of(studio: Studio, folder: Path) -> Json | None:
    """Return the before/after report as parts of a page; None where there is none.

    Its rows are named as the page names them, not by the files in which the server keeps them.
    """
    file = folder / _REPORT
    with suppress(DanluError):
        if file.is_file():
            report = dict(read_json_file(file, fix=shlex.join(["rm", str(file)])).fields)
            known = list(studio.data.all())
            for part in report.get("parts", ()):
                for each in known if "place" in part else ():
                    part["place"] = each.in_page_words(part["place"])
            return report
    return None


def csv_of(folder: Path) -> str:
    """Write the metrics as CSV: a row a record, columns in the order in which they appear."""
    from danlu.runs.metrics import read_metrics

    records = read_metrics(folder)
    names = list(dict.fromkeys(name for record in records for name in record))
    lines = [",".join(_cell(name) if "," in name or '"' in name else name for name in names)]
    lines += [",".join(_cell(record.get(name)) for name in names) for record in records]
    return "\r\n".join(lines) + "\r\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        value = json.dumps(value)
    if isinstance(value, str):
        # A table program would compute what begins like this.
        text = f"'{value}" if value[:1] in "=+-@\t\r" else value
        return '"' + text.replace('"', '""') + '"'
    return json.dumps(value)


def _settings(run: RunManifest) -> list[Json]:
    found = []
    for name, value in run.settings.items():
        origin = run.origins.get(name, DEFAULT)
        shown = {"name": name, "value": value, "origin": shown_origin(origin)}
        found.append({**shown, "is_given": origin != DEFAULT})
    return found


def _checkpoints(folder: Path) -> list[Json]:
    return [
        {"step": checkpoint.step, "bytes": size_of(checkpoint.path)}
        for checkpoint in list_checkpoints(folder)
    ]


def resumed_settings(run: RunManifest, folder: Path, step: int | None) -> Json:
    """Return the settings with which a run goes on, from a checkpoint's step where one is named."""
    from danlu.runs.resuming import given_settings, going_on_in

    name = None if step is None else f"checkpoint-{step}"
    return {**given_settings(run), **going_on_in(folder, name)}
