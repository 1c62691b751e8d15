"""What a training would take, before it starts: the planner's answer, in figures and sentences.

It is planned as another process beside this one: a model that the studio has loaded stays where it
is, and its memory is not there for the training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.device.detect import select
from danlu.device.facts import kept_bytes
from danlu.errors import CapacityError, DanluError, UsageError
from danlu.files.os_errors import free_bytes
from danlu.hub.load import check_model
from danlu.hub.names import find_model_folder
from danlu.language import joined
from danlu.plan.refusal import TooLarge
from danlu.program import as_typed
from danlu.runs.resuming import train_command
from danlu.train.fit.disk_space import check_space, checkpoint_bytes
from danlu.train.job.dry_run import DryRun, dry_run
from danlu.train.job.plan_shown import memory_rows, plan_fields, plan_lines, summary
from danlu.web.studio import Studio
from danlu.web.training.queue import settings_yaml
from danlu.web.training.training_choice import (
    ChosenTraining,
    TrainingChoice,
    chosen_training,
    new_run_folder,
    runs_home,
)

Json = dict[str, Any]


def planned(studio: Studio, choice: TrainingChoice) -> Json:
    """Say what a training would take. Raises UsageError and DataError for what cannot be planned.

    Whether it fits is `fits`; where it does not, `change` holds the smallest change that does.
    """
    name_problem = ""
    folder = runs_home() / "my-run"
    try:
        folder = new_run_folder(choice.name)
    except UsageError as problem:
        name_problem = joined(problem.what, problem.why)
    training = chosen_training(studio, choice, folder)
    settings = training.settings
    looked_at = dry_run(settings, settings.device, own_process=False)
    return {
        "name_problem": name_problem,
        "command": as_typed(train_command(training.given)),
        "yaml": settings_yaml(training.given),
        "data": _data(looked_at),
        "steps": _steps(looked_at),
        "disk": _disk(looked_at, folder),
        **_plan(looked_at),
        **_loaded_model(studio, settings.device),
        "values": settings.model_dump(mode="json"),
        "origins": dict(training.resolved.origins),
    }


def startable(studio: Studio, choice: TrainingChoice) -> ChosenTraining:
    """Return a choice that may be started.

    Raises UsageError where its model is not here, and what a plan of it raises: no rows, say.
    """
    planned(studio, choice)
    training = chosen_training(studio, choice, new_run_folder(choice.name))
    check_model(training.settings.model_name_or_path)
    return training


def _data(looked_at: DryRun) -> Json:
    data, settings = looked_at.task.data, looked_at.task.settings
    report = data.report
    ratio = looked_at.token_ratio
    return {
        "rows": len(data.train),
        "held_out_rows": len(data.held_out),
        "tokens": round(report.train.num_tokens * ratio),
        "learned_tokens": round(report.train.num_supervised * ratio),
        "longest": round(report.lengths.max * ratio),
        "cutoff_len": settings.cutoff_len if ratio == 1.0 else round(settings.cutoff_len * ratio),
        "over_cutoff": report.num_over_cutoff,
        "left_out": report.num_left_out,
        "findings": report.counts,
        "is_estimated": ratio != 1.0,
    }


def _steps(looked_at: DryRun) -> Json:
    recipe = looked_at.task.recipe
    schedule = recipe.schedule
    return {
        "total": recipe.total_steps,
        "rows_per_step": recipe.rows_per_step,
        "eval_every": recipe.eval_steps,
        "save_every": recipe.save_steps,
        # The learning rate never reaches its peak then, and little is learned.
        "only_warms_up": schedule.name != "constant"
        and schedule.warmup_steps >= recipe.total_steps,
    }


def _plan(looked_at: DryRun) -> Json:
    """Plan it; what does not fit is an answer, too."""
    try:
        plan = looked_at.plan()
    except CapacityError as problem:
        change = problem.change if isinstance(problem, TooLarge) else {}
        needed = problem.needed_bytes if isinstance(problem, TooLarge) else 0
        return {
            "fits": False,
            "problem": joined(problem.what, problem.why),
            "fix": as_typed(problem.fix),
            "change": change,
            "needed_bytes": needed,
            "budget_bytes": looked_at.budget_bytes,
            "device": looked_at.facts.description,
        }
    memory = [{"name": name, "bytes": size, "note": note} for name, size, note in memory_rows(plan)]
    return {
        "fits": True,
        "problem": "",
        "fix": "",
        "change": {},
        "summary": summary(plan),
        "lines": plan_lines(plan, looked_at.task.settings.model_name_or_path),
        "memory": memory,
        "needed_bytes": plan.chosen.memory.total,
        "budget_bytes": plan.budget_bytes,
        "steps_s": plan.total_s,
        "whole_s": plan.total_s + plan.around_s,
        "device": plan.device.description,
        "num_trained": plan.job.num_trained,
        "is_measured": plan.speed.is_measured,
        "details": plan_fields(plan),
    }


def _disk(looked_at: DryRun, folder: Path) -> Json:
    """Say what will be written where; bytes: None where the model's files are not here."""
    settings, kept = looked_at.task.settings, looked_at.task.recipe.kept_checkpoints
    size, problem = None, ""
    model = find_model_folder(settings.model_name_or_path)
    if model is not None and (model / "config.json").is_file():
        try:
            checked = check_model(settings.model_name_or_path)
            one = checkpoint_bytes(checked, looked_at.task.lora, looked_at.dtype)
            size = one * (kept + 1)
            check_space(folder, one, looked_at.task.recipe)
        except DanluError as fault:
            problem = joined(fault.what, fault.why)
    return {
        "folder": str(folder),
        "checkpoints": kept,
        "bytes": size,
        "free_bytes": free_bytes(folder),
        "problem": problem,
        "report": settings.report,
    }


def _loaded_model(studio: Studio, device: str) -> Json:
    """Say what the studio's own model takes of the device's memory."""
    serving = studio.server.serving
    if serving is None:
        return {"loaded_model": "", "loaded_bytes": 0}
    return {"loaded_model": serving.name, "loaded_bytes": kept_bytes(select(device))}
