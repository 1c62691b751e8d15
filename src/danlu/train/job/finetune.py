"""One fine-tuning job, from a prepared run to a finished run folder.

The output folder is taken before gigabytes of weights are loaded, and run.json says how far the run
came, whatever happens. Where several devices train, this is what the process does that leads; the
others do what is in following.py, which is told here what it cannot know.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace

from danlu.device.detect import Device
from danlu.hub.load import LoadedModel, load_model
from danlu.language import _
from danlu.model.packed import pack_base
from danlu.moving_line import Progress, no_progress
from danlu.ops import take_variants
from danlu.plan.job import StepPlan
from danlu.runs.card import CARD_FILE, model_card
from danlu.runs.checkpoints import FINAL, commit_final, publish_final
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import ArithmeticRecord
from danlu.runs.metrics import losses_after
from danlu.runs.registry import register
from danlu.train.events import Adapted, Event, Planned, Saved
from danlu.train.fit.planning import recalibrated
from danlu.train.job.outcome import record_change, record_costs, recording_end
from danlu.train.job.outputs import Outputs
from danlu.train.job.record import facts_of, going_on, manifest_of, recorded_step_plan, with_plan
from danlu.train.job.replaced import what_was_replaced
from danlu.train.job.resume import checkpoint_to_resume
from danlu.train.job.setup import PreparedRun
from danlu.train.job.trainable import method_of
from danlu.train.loop.method import Method
from danlu.train.loop.trainer import Interrupted, Trainer


class Finetune:
    """A job: `run` takes the output folder, trains and leaves the result there."""

    def __init__(self, prepared: PreparedRun) -> None:
        self.prepared = prepared
        self.device = prepared.device
        self._trainer: Trainer | None = None
        self._stop_requested = False

    def request_stop(self) -> None:
        """Stop soon: the step in flight is abandoned, the last completed one is saved."""
        self._stop_requested = True
        if self._trainer is not None:
            self._trainer.request_stop()

    def run(self, progress: Progress = no_progress) -> Iterator[Event]:
        """Train, save the result to final/ and yield what happens.

        progress: is told what is done before the first step.
        Raises Interrupted after `request_stop`, DataError when training diverges; run.json says so.
        """
        prepared, task = self.prepared, self.prepared.task
        started = time.perf_counter()
        with prepared.open_folder() as folder:
            register(folder.path)
            if folder.moved_to is not None:
                yield what_was_replaced(folder.moved_to)
            recorded = folder.read().arithmetic if task.settings.resumes else None
            prepared.group.told(None if recorded is None else recorded.model_dump(mode="json"))
            self.device, other_ops = as_recorded(self.device, recorded)
            base = load_base(prepared, self.device, progress)
            progress(_("Measuring the first steps"), 0, 0)
            plan = prepared.plan
            first = recorded_step_plan(folder.read()) if plan is None else plan.chosen.step_plan
            manifest = manifest_of(prepared, base=base, arithmetic=first)
            resumed = None
            if task.settings.resumes:
                wanted = task.settings.resume_from_checkpoint
                resumed = checkpoint_to_resume(folder, manifest, wanted)
                lost = losses_after(folder.path, resumed.step)
                manifest = going_on(
                    manifest,
                    folder.read(),
                    resumed.step,
                    num_devices=prepared.group.size,
                    lost=lost,
                )
            loaded_s = time.perf_counter() - started
            method = method_of(base, task.settings, task.adapter, task.lora)
            step_plan = recorded_step_plan(manifest, resumed.step if resumed else None)
            if step_plan.packs_base:
                pack_base(base.model)
            self._trainer = trainer = trainer_of(prepared, method, step_plan, folder)
            if self._stop_requested:
                trainer.request_stop()
            prepared.group.told(None if resumed is None else resumed.step)
            if resumed is not None:
                trainer.resume(resumed.step)
            folder.write(manifest)  # what fails before is told, and no run that has died
            if resumed is not None:
                yield replace(resumed, other_ops=other_ops)
            yield from self._train(trainer, method, folder)
            total_s = time.perf_counter() - started
            record_costs(folder, self.device, loaded_s=loaded_s, total_s=total_s)
        self._trainer = None  # frees its memory for what comes next, such as the report

    def _train(self, trainer: Trainer, method: Method, folder: RunFolder) -> Iterator[Event]:
        task = self.prepared.task
        outputs = Outputs(
            folder.path,
            task.settings,
            facts=lambda: facts_of(task, trainer.progress, method.base),
            logging_steps=task.recipe.logging_steps,
            first_step=trainer.progress.step,
        )
        # The state turns to finished last, when nothing is being written any more.
        with recording_end(folder, trainer, task.settings), closing(outputs):
            self.prepared.group.told(asdict(trainer.step_plan))
            yield from self._calibrate(trainer, folder)
            self.prepared.group.told(asdict(trainer.step_plan))
            for event in trainer.run():
                if isinstance(event, Adapted):
                    record_change(folder, event)
                yield event
                yield from outputs.after(event)
            folder.write(folder.read().changed(results=outputs.results()))
            with commit_final(folder.path) as draft:
                method.save_result(draft, method.pieces())
                draft.write(CARD_FILE, model_card(folder.read(), name=folder.path.name))
            publish_final(folder.path)
            outputs.finish()
        yield Saved(step=trainer.progress.step, folder=folder.path / FINAL)

    def _calibrate(self, trainer: Trainer, folder: RunFolder) -> Iterator[Event]:
        """Measure two tiny steps, correct the plan and record it; a resumed run has done so."""
        if self.prepared.plan is None:
            return
        try:
            figures = yield from trainer.measure(self.prepared.plan)
        except Interrupted:
            return  # the first step will notice it too
        plan = recalibrated(self.prepared.plan, figures, step_plan=trainer.step_plan)
        trainer.step_plan = plan.chosen.step_plan
        folder.write(with_plan(folder.read(), plan))
        yield Planned(plan=plan)


def as_recorded(
    device: Device, recorded: ArithmeticRecord | None
) -> tuple[Device, tuple[str, ...]]:
    """Take a resumed run's threads and variants of operations; return which are others now.

    recorded: None for a new run.
    """
    if recorded is None:
        return device, ()
    # Another number of threads adds in another order and gives other last bits.
    if recorded.threads is not None:
        device = device.use_threads(recorded.threads)
    return device, take_variants(device.torch_device, recorded.ops)


def load_base(
    prepared: PreparedRun, device: Device, progress: Progress = no_progress
) -> LoadedModel:
    """Load what is trained, or trained on."""
    return load_model(
        prepared.settings.model_name_or_path,
        device=device,
        dtype=prepared.precision.dtype,
        quantization=prepared.settings.base_form,
        keeps_head=True,
        shared_by=prepared.shared_by,
        progress=progress,
    )


def trainer_of(
    prepared: PreparedRun, method: Method, step_plan: StepPlan, folder: RunFolder | None
) -> Trainer:
    """Return the loop of this process. folder: None where another one leads."""
    task = prepared.task
    return Trainer(
        method=method,
        recipe=task.recipe,
        step_plan=step_plan,
        train_rows=task.data.train,
        eval_rows=task.data.held_out,
        run_folder=folder,
        places=task.data.train.places,
        group=prepared.group,
        is_shared=not prepared.shared_by.is_alone,
    )
