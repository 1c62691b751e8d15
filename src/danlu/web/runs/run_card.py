"""What a list says of a run: its card, made of its folder."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from danlu.files.lock import holder_of
from danlu.runs.manifest import RunManifest, read_manifest
from danlu.runs.registry import run_id, size_of
from danlu.web.runs.metric_table import MetricTable, read_table
from danlu.web.runs.run_curve import spark_of

Json = dict[str, Any]
_ONLY_STEPS = re.compile(r"at step \d+|\d+ steps")


def read_card(folder: Path, table: MetricTable | None = None) -> Json:
    """Read how a run stands. Raises UsageError, DataError and OSError where it cannot be read."""
    run = read_manifest(folder)
    table = read_table(folder) if table is None else table
    return {
        "id": run_id(folder),
        "name": folder.name,
        "state": run.state,
        # How far it came is said by the step.
        "detail": "" if _ONLY_STEPS.fullmatch(run.detail) else _whole(run.detail),
        "kind": run.kind,
        "base": _whole(run.base.name),
        "step": table.step,
        "total": total_steps(run),
        "loss": table.last("loss"),
        "eval_loss": table.last("eval_loss"),
        "best_eval_loss": run.results.get("best_eval_loss"),
        "size_bytes": size_of(folder),
        "started": run.started,
        "ended": run.ended,
        "spark": spark_of(table),
        "has_result": (folder / "final").is_dir(),
    }


def _whole(text: str) -> str:
    """Return a text of a file as JSON can hold it: half a character becomes a mark."""
    return text.encode("utf-8", "replace").decode()


def total_steps(run: RunManifest) -> int | None:
    """Count the steps that a run was to have, as its recipe does; None where that is not known."""
    settings, rows = run.settings, run.data.num_train_rows
    try:
        if settings["max_steps"] > 0:
            return int(settings["max_steps"])
        rows_per_step = (
            settings["per_device_train_batch_size"]
            * settings["gradient_accumulation_steps"]
            * run.arithmetic.num_devices
        )
        per_epoch = math.ceil((rows or 0) / rows_per_step)
        return max(1, math.ceil(settings["num_train_epochs"] * per_epoch)) if rows else None
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def live_state(card: Json, folder: Path) -> str:
    """Return the state of a run as of now: one whose process is gone has died."""
    if card["state"] == "running":
        return "running" if holder_of(folder) is not None else "died"
    return str(card["state"])


def stamp_of(folder: Path) -> str:
    """Return what changes whenever a card does. Raises OSError where there is no run.json."""
    parts = [(folder / "run.json").stat()]
    for name in ("metrics.jsonl", "."):
        try:
            parts.append((folder / name).stat())
        except FileNotFoundError:
            continue
    return " ".join(f"{part.st_ino}:{part.st_size}:{part.st_mtime_ns}" for part in parts)
