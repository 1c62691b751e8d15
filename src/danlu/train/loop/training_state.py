"""What a checkpoint holds beside the trained weights: optimizer state and progress.

`optimizer.safetensors`: flat fp32 master weights and both moments. `progress.json`: steps done,
updates applied, best evaluation, loss scale. No random state: there is none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.errors import DataError
from danlu.files.draft import Draft
from danlu.files.os_errors import readable
from danlu.language import _
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.precision import LossScale
from danlu.weights.safetensors import SafetensorsFile
from danlu.weights.sharded import TensorPlan, in_order, write_tensors

OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE = "progress.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands. A skipped step counts as done: its rows were tried.

    best_loss, best_step: the best evaluation so far; evaluated_step: the last step that was
    evaluated; worse_in_a_row: evaluations since the best. provisional: steps saved off schedule,
    for being the best or for an interruption (`Saver` keeps them). scale: of the next step's loss.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    evaluated_step: int | None = None
    worse_in_a_row: int = 0
    provisional: tuple[int, ...] = ()
    scale: LossScale = field(default_factory=LossScale)

    def after_step(self, *, applied: bool, scale: LossScale) -> Progress:
        """Return the progress after one more step."""
        return replace(
            self,
            step=self.step + 1,
            skipped=self.skipped + (not applied),
            skipped_in_a_row=0 if applied else self.skipped_in_a_row + 1,
            scale=scale,
        )

    def after_evaluation(self, loss: float) -> Progress:
        """Return the progress with the present step evaluated.

        The best is never step 0, nor one whose loss is not finite.
        """
        evaluated = replace(self, evaluated_step=self.step)
        if self.step == 0:
            return evaluated
        if math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss):
            return replace(evaluated, best_loss=loss, best_step=self.step, worse_in_a_row=0)
        return replace(evaluated, worse_in_a_row=self.worse_in_a_row + 1)

    def as_fields(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Progress:
        """Read what `as_fields` has written; older files lack some of it."""
        scale = LossScale(**fields.get("scale", {}))
        provisional = tuple(fields.get("provisional", ()))
        return cls(**{**fields, "scale": scale, "provisional": provisional})


def write_state(
    draft: Draft, progress: Progress, optimizer: Optimizer, pieces: Iterator[Tensor]
) -> None:
    """Write optimizer and progress into a checkpoint's draft. pieces: those of the optimizer.

    Raises DataError where a weight is not finite: such a checkpoint would replace a good one.
    """
    plans = [
        TensorPlan(name=name, dtype=torch.float32, shape=(size,))
        for name, size in optimizer.sizes().items()
    ]
    arriving = in_order(plans, pieces)

    def fetch(name: str) -> Iterator[Tensor]:
        numbers = arriving(name)
        return _all_finite(numbers) if name.endswith(".master") else numbers

    write_tensors(draft, OPTIMIZER_FILE, plans, fetch)
    text = json.dumps({**progress.as_fields(), "updates": optimizer.num_updates()}, indent=1)
    draft.write(PROGRESS_FILE, text + "\n")


def _all_finite(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    for piece in pieces:
        # A sum needs no copy of the weights, and any NaN or infinity in them stays in it.
        if not piece.sum().isfinite():
            raise DataError(
                _("Training stopped: the weights are not finite any more."),
                why=_("A number among them is NaN or infinity, so they were not saved."),
                fix=_(
                    "Try a lower --learning_rate; the newest checkpoint has the last good weights."
                ),
            )
        yield piece


def read_state(folder: Path, optimizer: Optimizer) -> Progress:
    """Restore the optimizer from a verified checkpoint; return its progress.

    Raises DataError where it was written with other trainable tensors, or cannot be read.
    """
    file = SafetensorsFile(folder / OPTIMIZER_FILE)
    wanted = {name: (size,) for name, size in optimizer.sizes().items()}
    if {name: stored.shape for name, stored in file.tensors.items()} != wanted:
        raise DataError(
            _("The checkpoint {folder} belongs to other settings.").format(folder=folder),
            why=_("Its optimizer state has other sizes than this run's trainable weights."),
            fix=_("Resume with the settings in run.json, or start anew in another folder."),
        )
    with readable(folder / PROGRESS_FILE):
        text = (folder / PROGRESS_FILE).read_bytes()
    fields = json.loads(text)
    updates = fields.pop("updates")
    optimizer.restore(file.rows, updates)
    return Progress.from_fields(fields)
