"""What a training run reports while it runs; `cli` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from danlu.plan.choose import Plan
from danlu.plan.job import StepPlan
from danlu.runs.manifest import RunManifest

# Where memory can run out: a probe before the first step, a step, an evaluation.
Moment = Literal["probe", "step", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Started:
    """Before the first step; `step` is above 0 when a checkpoint was resumed."""

    step: int
    total_steps: int


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """What was in the output folder lies in the trash now.

    state: of the run that it was, "" for anything else; step of total_steps: how far it was; run:
    its run.json.
    """

    moved_to: Path
    run: RunManifest | None = None
    state: str = ""
    step: int = 0
    total_steps: int | None = None
    num_checkpoints: int = 0


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """The run goes on from checkpoint-`step`; newer ones were damaged, each with a sentence.

    other_ops: operations that are computed otherwise than before, as `name: before -> now`.
    """

    step: int
    damaged: tuple[str, ...]
    other_ops: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One optimizer step. `loss`: mean over supervised tokens; `num_tokens`: all, none padded."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    num_tokens: int
    seconds: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class StepSkipped:
    """A step whose loss or gradient was not finite; the weights are as before. rows: file:line."""

    step: int
    rows: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Losses on the held-out rows: over all their supervised tokens, and per row (`Evaluation`)."""

    step: int
    epoch: float
    loss: float
    loss_per_sample: float
    seconds: float
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint, or the final result, has been committed to disk."""

    step: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class NotSaved:
    """Something could not be written (a full disk); the run goes on and tries again later."""

    step: int
    what: str
    why: str


@dataclass(frozen=True, kw_only=True)
class StoppedEarly:
    """The last `evaluations` evaluations were no better than the best one, at step `best_step`."""

    step: int
    best_step: int
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class Planned:
    """How steps are computed, after probes have measured memory and speed."""

    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Memory ran out in `step`, or after it; from now on everything is computed like this.

    What was being computed is computed again.
    """

    step: int
    moment: Moment
    step_plan: StepPlan


Event = (
    Planned
    | Started
    | Replaced
    | Resumed
    | StepDone
    | StepSkipped
    | Evaluated
    | Saved
    | NotSaved
    | StoppedEarly
    | Adapted
)
