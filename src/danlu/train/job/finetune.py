"""One fine-tuning job, from settings to a finished run folder.

The order matters to a user: model files and data are checked and the output folder is taken before
gigabytes of weights are loaded, and run.json says how far the run came, whatever happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from danlu.device.detect import Device, select
from danlu.device.facts import budget_bytes, device_facts
from danlu.device.memory import is_out_of_memory, peak_bytes
from danlu.errors import CapacityError, DanluError, DataError
from danlu.hub.adapters import attach_adapter
from danlu.hub.load import CheckedModel, LoadedModel, check_model, load_model
from danlu.plan.choose import Plan
from danlu.plan.job import StepPlan
from danlu.runs.card import CARD_FILE, model_card
from danlu.runs.checkpoints import FINAL, commit_final, publish_final
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import State
from danlu.runs.metrics import read_metrics
from danlu.runs.registry import register
from danlu.runs.trainer_files import RunFacts, results_of
from danlu.train.events import Adapted, Event, Planned, Saved
from danlu.train.fit.advice import end_of_ladder, memory_is_full
from danlu.train.fit.ladder import OutOfMemory
from danlu.train.fit.planning import (
    constraints_of,
    job_of,
    plan_run,
    recalibrated,
    workload_of,
)
from danlu.train.fit.space import check_space, checkpoint_bytes
from danlu.train.job.adapter import lora_config, named_adapter
from danlu.train.job.outputs import Outputs
from danlu.train.job.prepare import prepare_data
from danlu.train.job.record import (
    arithmetic_of,
    facts_of,
    going_on,
    manifest_of,
    now,
    plan_record,
    with_change,
)
from danlu.train.job.resume import checkpoint_to_resume
from danlu.train.job.tensorboard import TensorBoard, log_folder
from danlu.train.loop.method import FullMethod, LoraMethod, Method
from danlu.train.loop.precision import choose_precision
from danlu.train.loop.trainer import Interrupted, Trainer
from danlu.train.recipe import check_required, recipe_of
from danlu.train.settings import TrainSettings


class Finetune:
    """A job. Creating it checks settings and data; `run` takes the output folder and trains.

    origins: where each setting came from, for run.json.
    """

    def __init__(self, settings: TrainSettings, origins: Mapping[str, str] | None = None) -> None:
        check_required(settings)
        self.settings = settings
        self.path = Path(settings.output_dir).expanduser().absolute()
        if not (self._resumes or settings.overwrite_output_dir):
            RunFolder.check_unused(self.path)
        self._origins = origins or {}
        self.device: Device = select(settings.device)
        self.precision = choose_precision(settings, self.device)
        model = check_model(settings.model_name_or_path)
        self.data = prepare_data(settings, model.tokenizer)
        self.recipe = recipe_of(
            settings,
            num_train_rows=len(self.data.train_rows),
            num_eval_rows=len(self.data.eval_rows),
        )
        self._adapter = named_adapter(settings)
        self._lora = lora_config(settings, self._adapter)
        size = checkpoint_bytes(model, self._lora, self.precision.dtype)
        check_space(self.path, size, kept=self.recipe.kept_checkpoints)
        self._constraints = constraints_of(settings)
        # A resumed run goes on as it began: another way to compute gives other last bits.
        self.plan = None if self._resumes else self._first_plan(model)
        self._trainer: Trainer | None = None
        self._stop_requested = False

    def request_stop(self) -> None:
        """Stop soon: the step in flight is abandoned, the last completed one is saved."""
        self._stop_requested = True
        if self._trainer is not None:
            self._trainer.request_stop()

    def run(self) -> Iterator[Event]:
        """Train, save the result to final/ and yield what happens.

        Raises Interrupted after `request_stop`, DataError when training diverges; run.json says so.
        """
        started = time.perf_counter()
        with self._open_folder() as folder:
            register(folder.path)
            base = self._load(folder)
            manifest = manifest_of(
                self.settings,
                self._origins,
                base=base,
                data=self.data,
                arithmetic=self._arithmetic(folder),
            )
            resumed = None
            if self._resumes:
                wanted = self.settings.resume_from_checkpoint
                resumed = checkpoint_to_resume(folder, manifest, wanted)
                manifest = going_on(manifest, folder.read(), resumed.step)
            else:
                folder.write(manifest)
            loaded_s = time.perf_counter() - started
            method = self._method(base)
            self._trainer = trainer = Trainer(
                method=method,
                recipe=self.recipe,
                step_plan=arithmetic_of(manifest, resumed.step if resumed else None),
                train_rows=self.data.train_rows,
                eval_rows=self.data.eval_rows,
                run_folder=folder,
                places=self.data.train_places,
            )
            if self._stop_requested:
                trainer.request_stop()
            if resumed is not None:
                trainer.resume(resumed.step)
                folder.write(manifest)
                yield resumed
            yield from self._train(trainer, method, base, folder)
            _note_end(folder, base, loaded_s=loaded_s, total_s=time.perf_counter() - started)
        self._trainer = None  # its memory belongs to whoever comes next, such as the report

    def _train(
        self, trainer: Trainer, method: Method, base: LoadedModel, folder: RunFolder
    ) -> Iterator[Event]:
        def facts() -> RunFacts:
            return facts_of(self.settings, self.recipe, self.data, trainer.progress, base=base)

        outputs = self._outputs(facts, first_step=trainer.progress.step)
        try:
            yield from self._calibrate(trainer, folder)
            for event in trainer.run():
                if isinstance(event, Adapted):
                    _note_change(folder, event)
                yield event
                yield from outputs.after(event)
            results = results_of(read_metrics(folder.path), facts())
            folder.write(folder.read().changed(results=results))
            with commit_final(folder.path) as draft:
                method.save_result(draft)
                draft.write(CARD_FILE, model_card(folder.read(), name=folder.path.name))
            publish_final(folder.path)
            outputs.finish()
        except Interrupted:
            _set_state(folder, "interrupted", f"at step {trainer.progress.step}")
            raise
        except DanluError as problem:
            diverged = isinstance(problem, DataError)
            _note_failure(folder, "stopped" if diverged else "failed", problem.what)
            raise
        except OutOfMemory as problem:
            saved = trainer.progress.step
            refusal = end_of_ladder(problem, self.settings, folder.path, saved=saved)
            _note_failure(folder, "stopped", refusal.what)
            raise refusal from problem
        except Exception as problem:
            _note_failure(folder, "failed", f"{type(problem).__name__}: {problem}")
            if is_out_of_memory(problem):
                raise memory_is_full(problem) from problem
            raise
        finally:
            outputs.close()
        _set_state(folder, "finished", f"{trainer.progress.step} steps")
        yield Saved(step=trainer.progress.step, folder=folder.path / FINAL)

    def _first_plan(self, model: CheckedModel) -> Plan:
        """Plan from what is known before the weights are read. Raises CapacityError."""
        return plan_run(
            job_of(model.config, self._lora, self.precision.dtype),
            workload_of(
                self.recipe,
                self.data.train_rows,
                self.data.eval_rows,
                longest=min(self.data.report.lengths.max, self.settings.cutoff_len),
            ),
            device_facts(self.device),
            budget_bytes=budget_bytes(self.device),
            constraints=self._constraints,
        )

    def _calibrate(self, trainer: Trainer, folder: RunFolder) -> Iterator[Event]:
        """Measure two tiny steps, correct the plan and record it; a resumed run has done so."""
        if self.plan is None:
            return
        try:
            figures = yield from trainer.measure(self.plan)
        except Interrupted:
            return  # the first step will notice it too
        self.plan = recalibrated(
            self.plan, figures, step_plan=trainer.step_plan, constraints=self._constraints
        )
        step_plan = self.plan.chosen.step_plan
        trainer.step_plan = step_plan
        run = folder.read()
        folder.write(
            run.changed(
                arithmetic={**run.arithmetic, **asdict(step_plan)}, plan=plan_record(self.plan)
            )
        )
        yield Planned(plan=self.plan)

    def _arithmetic(self, folder: RunFolder) -> StepPlan:
        if self.plan is None:
            return arithmetic_of(folder.read())
        return self.plan.chosen.step_plan

    @property
    def _resumes(self) -> bool:
        return self.settings.resume_from_checkpoint is not False

    def _open_folder(self) -> RunFolder:
        if self._resumes:
            return RunFolder.reopen(self.path)
        return RunFolder.create(self.path, overwrite=self.settings.overwrite_output_dir)

    def _load(self, folder: RunFolder) -> LoadedModel:
        if self._resumes:
            # Another number of threads adds in another order and gives other last bits.
            self.device = self.device.with_threads(folder.read().arithmetic["threads"])
        name = self.settings.model_name_or_path
        return load_model(name, device=self.device, dtype=self.precision.dtype)

    def _outputs(self, facts: Callable[[], RunFacts], *, first_step: int) -> Outputs:
        tensorboard = TensorBoard(
            log_folder(self.settings, self.path),
            logging_steps=self.recipe.logging_steps,
            first_step=first_step,
        )
        draws = self.settings.plot_loss
        return Outputs(self.path, facts=facts, draws=draws, tensorboard=tensorboard)

    def _method(self, base: LoadedModel) -> Method:
        seed = self.settings.seed
        if self._lora is None:
            return FullMethod(base)
        if self._adapter is None:
            return LoraMethod.fresh(base, self._lora, seed=seed)
        adapter, _is_proven = attach_adapter(self._adapter, base, dtype=torch.float32)
        adapter.config = self._lora
        return LoraMethod(adapter, base=base, seed=seed)


def _set_state(folder: RunFolder, state: State, detail: str) -> None:
    folder.write(folder.read().changed(state=state, detail=detail, ended=now()))


def _note_change(folder: RunFolder, change: Adapted) -> None:
    # Before the step is computed again, so that a resumed run finds it. On a full disk the run goes
    # on: a resumed one would run out of memory at the same place and adapt again.
    with suppress(CapacityError):
        folder.write(with_change(folder.read(), change))


def _note_failure(folder: RunFolder, state: State, detail: str) -> None:
    # On a full disk this fails too; the user must hear of the error that came first.
    with suppress(DanluError):
        _set_state(folder, state, detail)


def _note_end(folder: RunFolder, base: LoadedModel, *, loaded_s: float, total_s: float) -> None:
    """Record how long the run took and how much memory it used at most."""
    run = folder.read()
    peak = float(peak_bytes(base.device.torch_device))
    timings = {"load_s": round(loaded_s, 3), "total_s": round(total_s, 3)}
    folder.write(run.changed(timings=timings, results={**run.results, "peak_memory_bytes": peak}))
