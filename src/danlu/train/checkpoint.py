"""What a checkpoint holds beside the trained weights: optimizer state and progress.

`optimizer.safetensors`: flat fp32 master weights and both moments. `progress.json`: steps done,
updates applied, best evaluation. No random state: there is none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from danlu.errors import DataError
from danlu.files.committed import Draft
from danlu.language import _
from danlu.train.optimizer import Optimizer
from danlu.weights.folder import TensorPlan, write_tensors
from danlu.weights.safetensors import SafetensorsFile

OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE = "progress.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands. A skipped step counts as done: its rows were tried."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_loss: float | None = None
    best_step: int | None = None

    def after_step(self, *, applied: bool) -> Progress:
        """Return the progress after one more step."""
        return replace(
            self,
            step=self.step + 1,
            skipped=self.skipped + (not applied),
            skipped_in_a_row=0 if applied else self.skipped_in_a_row + 1,
        )

    def with_best(self, loss: float) -> Progress:
        """Return the progress with the present step as the best so far."""
        return replace(self, best_loss=loss, best_step=self.step)


def write_state(draft: Draft, progress: Progress, optimizer: Optimizer) -> None:
    """Write optimizer and progress into a checkpoint's draft."""
    tensors, updates = optimizer.state()
    plans = [
        TensorPlan(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
    write_tensors(draft, OPTIMIZER_FILE, plans, tensors.__getitem__)
    text = json.dumps({**asdict(progress), "updates": updates}, indent=1)
    draft.write(PROGRESS_FILE, text + "\n")


def read_state(folder: Path, optimizer: Optimizer) -> Progress:
    """Restore the optimizer from a verified checkpoint; return its progress.

    Raises DataError where the checkpoint was written with other trainable tensors.
    """
    file = SafetensorsFile(folder / OPTIMIZER_FILE)
    present, _updates = optimizer.state()
    wanted = {name: tuple(tensor.shape) for name, tensor in present.items()}
    if {name: stored.shape for name, stored in file.tensors.items()} != wanted:
        raise DataError(
            _("The checkpoint {folder} belongs to other settings.").format(folder=folder),
            why=_("Its optimizer state has other sizes than this run's trainable weights."),
            fix=_("Resume with the settings in run.json, or start anew in another folder."),
        )
    fields = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
    updates = fields.pop("updates")
    optimizer.restore({name: file.read(name) for name in wanted}, updates)
    return Progress(**fields)
