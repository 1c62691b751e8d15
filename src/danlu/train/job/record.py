"""What run.json says of a run: how it was set up, what was planned, what changed on the way."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import torch

import danlu
from danlu.data.doctor.check import CheckedData
from danlu.errors import DataError
from danlu.hub.load import LoadedModel
from danlu.hub.names import STARTER
from danlu.language import _
from danlu.model.sizes import num_parameters
from danlu.ops import ops_table
from danlu.plan.choose import Plan
from danlu.plan.job import StepPlan
from danlu.runs.manifest import (
    RUN_FILE,
    ArithmeticRecord,
    BaseRecord,
    ChangeRecord,
    DataRecord,
    ResumeRecord,
    RunManifest,
)
from danlu.runs.trainer_files import RunFacts
from danlu.train.events import Adapted
from danlu.train.job.setup import LearningTask, PreparedRun
from danlu.train.loop.training_state import Progress

# How many of the rows that were left out run.json names; it counts all of them.
MOST_RECORDED = 1000
# Of how many steps that are computed again run.json keeps the losses.
MOST_LOST = 200


def manifest_of(prepared: PreparedRun, *, base: LoadedModel, arithmetic: StepPlan) -> RunManifest:
    """Describe a run that is about to start."""
    settings, device = prepared.settings, base.device
    return RunManifest(
        state="running",
        kind=settings.finetuning_type,
        base=BaseRecord(
            name=STARTER if base.name == STARTER else base.folder.name,
            path=str(base.folder),
            fingerprint=base.fingerprint,
        ),
        template=settings.chat_format,
        enable_thinking=settings.enable_thinking,
        settings=settings.model_dump(),
        origins=dict(prepared.origins),
        cwd=os.getcwd(),
        versions={
            "danlu": danlu.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        arithmetic=ArithmeticRecord(
            device=device.kind,
            device_description=device.description,
            dtype=str(base.dtype).removeprefix("torch."),
            threads=device.threads,
            base_form=base.quantization,
            ops=dict(ops_table(device.torch_device).chosen),
            num_devices=prepared.began_with,
            is_shared=not prepared.shared_by.is_alone,
            **asdict(arithmetic),
        ),
        data=data_record(prepared.task.data),
        started=now(),
    )


def plan_record(plan: Plan) -> dict[str, Any]:
    """Say for run.json what was predicted, and from what."""
    chosen = plan.chosen
    return {
        **asdict(chosen.step_plan),
        "memory_bytes": {**asdict(chosen.memory), "total": chosen.memory.total},
        "budget_bytes": plan.budget_bytes,
        "microsteps_per_step": round(chosen.microsteps, 2),
        "step_s": round(chosen.step_s, 4),
        "total_s": round(plan.total_s, 2),
        "measured": plan.speed.is_measured,
    }


def recorded_step_plan(manifest: RunManifest, step: int | None = None) -> StepPlan:
    """Return how a recorded run computed after `step` steps, or at its start.

    Raises DataError where run.json does not say it.
    """
    changes = () if step is None else _changes_until(manifest, step)
    way = changes[-1] if changes else manifest.arithmetic
    if way.micro_batch_tokens is None:
        raise DataError(
            _("{path} cannot be read.").format(path=RUN_FILE),
            why="arithmetic.micro_batch_tokens: Field required",
            fix=_("If a newer danlu wrote it, update danlu; otherwise start the run again."),
        )
    return StepPlan(
        micro_batch_tokens=way.micro_batch_tokens,
        chunk_rows=way.chunk_rows,
        recompute=way.recompute,
        packs_base=way.packs_base,
    )


def with_plan(manifest: RunManifest, plan: Plan) -> RunManifest:
    """Add what was predicted, and that the run computes like this from its start."""
    recorded = manifest.arithmetic.model_copy(update=asdict(plan.chosen.step_plan))
    return manifest.changed(arithmetic=recorded, plan=plan_record(plan))


def with_change(manifest: RunManifest, change: Adapted) -> RunManifest:
    """Add that memory ran out, and how the run computes from then on."""
    added = ChangeRecord(step=change.step, **asdict(change.step_plan))
    return _with_changes(manifest, (*manifest.arithmetic.changes, added))


def going_on(
    manifest: RunManifest,
    before: RunManifest,
    step: int,
    *,
    num_devices: int = 1,
    lost: Mapping[int, float | None] | None = None,
) -> RunManifest:
    """Describe a run that is resumed after `step` steps; later changes are dropped.

    manifest: of this command. before: what run.json says. num_devices: that it goes on with. lost:
    the losses behind `step`, which are computed again; the first ones are kept as proof.
    """
    kept = dict(sorted((lost or {}).items())[:MOST_LOST])
    resumes = (
        *before.arithmetic.resumes,
        ResumeRecord(step=step, num_devices=num_devices, lost=kept),
    )
    arithmetic = manifest.arithmetic.model_copy(update={"resumes": resumes})
    going = manifest.changed(started=before.started, plan=before.plan, arithmetic=arithmetic)
    changes = _changes_until(before, step)
    return _with_changes(going, changes) if changes else going


def _with_changes(manifest: RunManifest, changes: tuple[ChangeRecord, ...]) -> RunManifest:
    arithmetic = manifest.arithmetic.model_copy(update={"changes": changes})
    return manifest.changed(arithmetic=arithmetic)


def _changes_until(manifest: RunManifest, step: int) -> tuple[ChangeRecord, ...]:
    # In the order in which they came; a change names the first step that was computed like it.
    return tuple(change for change in manifest.arithmetic.changes if change.step <= step)


def facts_of(task: LearningTask, progress: Progress, base: LoadedModel) -> RunFacts:
    """Collect what the Trainer's files need besides the metrics."""
    settings, recipe = task.settings, task.recipe
    parameters = num_parameters(base.config) - base.model.embed_tokens.numel()
    result = progress.best_step if settings.load_best_model_at_end else progress.step
    return RunFacts(
        total_steps=recipe.total_steps,
        logging_steps=recipe.logging_steps,
        eval_steps=recipe.eval_steps,
        save_steps=recipe.save_steps,
        rows_per_step=recipe.rows_per_step,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        num_train_epochs=settings.num_train_epochs,
        num_eval_rows=len(task.data.held_out),
        flops_per_token=6.0 * parameters,
        best_step=progress.best_step,
        best_loss=progress.best_loss,
        result_step=result,
    )


def data_record(data: CheckedData) -> DataRecord:
    """Say for run.json what the rows were and what became of them."""
    return DataRecord(
        fingerprint=data.fingerprint(),
        num_train_rows=len(data.train),
        num_eval_rows=len(data.held_out),
        num_train_tokens=data.report.train.num_tokens,
        num_supervised_tokens=data.report.train.num_supervised,
        left_out_rows=tuple(map(str, data.report.left_out[:MOST_RECORDED])),
        **data.report.as_record(),
    )


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
