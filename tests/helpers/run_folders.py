"""Runs without a training: folders as one would leave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from danlu.files.atomic import make_folder
from danlu.runs.manifest import BaseRecord, DataRecord, RunManifest, write_manifest
from danlu.runs.metrics import Metrics
from danlu.runs.registry import register, run_id


def step_record(step: int, loss: float, **values: Any) -> dict[str, Any]:
    """Write the record of a step as training does."""
    usual = {"learning_rate": 1e-4, "grad_norm": 1.0, "num_tokens": 1000, "seconds": 0.5}
    return {
        "step": step,
        "epoch": step / 10,
        "loss": loss,
        **usual,
        "memory_bytes": 10**9,
        **values,
    }


def write_run(
    folder: Path, records: Iterable[Mapping[str, Any]] = (), *, is_known: bool = True, **values: Any
) -> str:
    """Write a run's folder and add it to the list; return its id."""
    make_folder(folder)
    usual: dict[str, Any] = {
        "state": "finished",
        "base": BaseRecord(name="starter", path="/models/starter", fingerprint="f"),
        "template": "qwen3",
        "enable_thinking": True,
        "data": DataRecord(num_train_rows=20, num_eval_rows=2),
        "started": "2026-11-01T10:00:00+00:00",
        "ended": "2026-11-01T10:01:00+00:00",
    }
    write_manifest(folder, RunManifest(**{**usual, **values}))
    metrics = Metrics(folder)
    for record in records:
        metrics.append(record)
    if is_known:
        register(folder)
    return run_id(folder)
