"""One device's share of a run that another process leads: the same steps, and nothing written.

What only the lead can know is told at four places, in the order of `Finetune.run`: how the run
computed before, if it is resumed; from which step it goes on; how steps are computed, as planned;
and how they are when that has been measured.
"""

from __future__ import annotations

from danlu.device.group import take_all
from danlu.errors import DataError
from danlu.model.packed import pack_base
from danlu.plan.job import StepPlan
from danlu.runs.manifest import ArithmeticRecord
from danlu.train.job.finetune import as_recorded, load_base, trainer_of
from danlu.train.job.setup import PreparedRun
from danlu.train.job.trainable import method_of
from danlu.train.loop.trainer import Trainer

# Until the lead has planned, nothing is computed.
_NO_PLAN = StepPlan(micro_batch_tokens=1, chunk_rows=1, recompute="none")


class Following:
    """The job of a process that does not lead."""

    def __init__(self, prepared: PreparedRun) -> None:
        self.prepared = prepared
        self._trainer: Trainer | None = None
        self._stop_requested = False

    def request_stop(self) -> None:
        """Let all stop behind the step in flight."""
        self._stop_requested = True
        if self._trainer is not None:
            self._trainer.request_stop()

    def run(self) -> None:
        """Compute this device's share of every step and evaluation.

        Raises Interrupted where the run was stopped, and GroupBroken where another process ended.
        """
        prepared, task, group = self.prepared, self.prepared.task, self.prepared.group
        before = group.told()
        recorded = None if before is None else ArithmeticRecord.model_validate(before)
        device, _other_ops = as_recorded(prepared.device, recorded)
        base = load_base(prepared, device)
        method = method_of(base, task.settings, task.adapter, task.lora)
        self._trainer = trainer = trainer_of(prepared, method, _NO_PLAN, None)
        if self._stop_requested:
            trainer.request_stop()
        step = group.told()
        if step is not None:
            trainer.resume(step)
        trainer.step_plan = StepPlan(**group.told())
        if trainer.step_plan.packs_base:
            pack_base(base.model)
        if not prepared.shared_by.is_alone and before is None:
            trainer.help_to_measure()
        trainer.step_plan = StepPlan(**group.told())
        try:
            for _event in trainer.run():
                pass
            take_all(method.pieces())
        except DataError:
            pass  # all find that the training diverges; the lead says so
