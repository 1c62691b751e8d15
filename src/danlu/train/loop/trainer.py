"""The training loop: optimizer steps over packed rows, evaluation, checkpoints.

One optimizer step takes a fixed number of rows and packs their examples into as few micro-batches
as allowed. Which rows a step takes is a pure function of (seed, step); together with stateless
dropout this makes a resumed run bit-identical on the CPU, with no random state to save.

Knows tensors and runs; must not know flags, terminals or data files.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass

from danlu.data.tokens.examples import Example
from danlu.device.memory import used_bytes
from danlu.errors import DataError
from danlu.files.committed import verify
from danlu.hub.load import LoadedModel
from danlu.language import _
from danlu.plan.calibrate import ProbeFigure
from danlu.plan.choose import Plan
from danlu.plan.job import StepPlan
from danlu.runs.folder import RunFolder
from danlu.runs.metrics import Metrics, truncate_after
from danlu.train.events import (
    Adapted,
    Evaluated,
    Event,
    NotSaved,
    Saved,
    Started,
    StepDone,
    StepSkipped,
    StoppedEarly,
)
from danlu.train.fit.adapting import Adapting, OutOfMemory
from danlu.train.loop.batches import StepBatches, steps_per_epoch
from danlu.train.loop.checkpoint import Progress, read_state
from danlu.train.loop.evaluate import Evaluation, evaluate
from danlu.train.loop.method import Method
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.precision import LossScale
from danlu.train.loop.probe import probe, probe_examples
from danlu.train.loop.saving import Saver
from danlu.train.loop.step import StepResult, optimizer_step
from danlu.train.schedule import Schedule

# After this many steps in a row without a finite gradient the run stops.
MAX_SKIPPED_STEPS = 3
# After this many checkpoints in a row that could not be written the run stops.
MAX_FAILED_SAVES = 2

Row = Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a run; names as in Hugging Face's TrainingArguments where they exist there.

    rows_per_step: per_device_train_batch_size x gradient_accumulation_steps. eval_steps and
    save_steps 0 mean only at the end (and, for saving, at each new best evaluation).
    early_stopping_patience 0 is off.
    """

    total_steps: int
    rows_per_step: int
    schedule: Schedule
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = 1e-8
    max_grad_norm: float
    seed: int
    eval_on_start: bool = False
    eval_steps: int = 0
    save_steps: int = 0
    save_total_limit: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str = "eval_loss"
    early_stopping_patience: int = 0

    @property
    def kept_checkpoints(self) -> int:
        """How many checkpoints can stand beside each other, without the result in final/."""
        scheduled = self.total_steps // self.save_steps if self.save_steps else 0
        # The last one and the best one come on top; the best one on top of a limit, too.
        all_of_them = min(self.total_steps, scheduled + 2)
        limit = self.save_total_limit
        return all_of_them if limit is None else min(all_of_them, limit + 1)


class Interrupted(Exception):
    """The run was asked to stop; the last completed step has been saved."""


class Trainer:
    """One run. Create, optionally `resume`, then iterate over `run()`.

    places: where each training row stands, to name those of a step that was skipped.
    """

    def __init__(
        self,
        *,
        base: LoadedModel,
        method: Method,
        recipe: Recipe,
        step_plan: StepPlan,
        train_rows: Sequence[Row],
        eval_rows: Sequence[Row],
        run_folder: RunFolder,
        places: Sequence[str] = (),
    ) -> None:
        self._base = base
        self._method = method
        self._recipe = recipe
        self._adapting = Adapting(step_plan, base.device)
        self._train_rows = train_rows
        self._eval_rows = eval_rows
        self._run_folder = run_folder
        self._places = places
        self._batches = StepBatches(
            train_rows,
            rows_per_step=recipe.rows_per_step,
            seed=recipe.seed,
            device=base.device.torch_device,
            multiple=base.token_multiple,
        )
        self._metrics = Metrics(run_folder.path)
        self._optimizer = Optimizer(
            method.named_parameters(),
            weight_decay=recipe.weight_decay,
            fused=base.device.has_fused_adamw,
            betas=recipe.adam_betas,
            eps=recipe.adam_epsilon,
        )
        self._saver = Saver(
            run_folder.path,
            method=method,
            optimizer=self._optimizer,
            metrics=self._metrics,
            save_total_limit=recipe.save_total_limit,
        )
        self._progress = Progress(scale=LossScale.first_for(base.dtype))
        self._saved_step: int | None = None
        self._failed_saves = 0
        self._stop_requested = False

    def request_stop(self) -> None:
        """Abandon the step in flight, save the last completed one and raise Interrupted."""
        self._stop_requested = True

    def resume(self, step: int) -> None:
        """Continue from checkpoint-`step`, which has been verified."""
        folder = self._run_folder.path / f"checkpoint-{step}"
        self._progress = read_state(folder, self._optimizer)
        self._saved_step = step
        truncate_after(self._run_folder.path, step)

    def measure(self, plan: Plan) -> Generator[Event, None, list[ProbeFigure]]:
        """Run two tiny microsteps and return their figures; nothing is learned from them.

        Raises OutOfMemory where not even they fit, and Interrupted after `request_stop`.
        """

        def compute(step_plan: StepPlan) -> list[ProbeFigure]:
            return probe(
                self._base,
                self._method,
                self._train_rows,
                plan.with_step_plan(step_plan),
                clear=self._optimizer.zero_grad,
                between=self._check_stop,
            )

        return (
            yield from self._adapting.until_it_fits(
                compute,
                lambda: probe_examples(self._train_rows, plan)[1],
                moment="probe",
                step=0,
                note=self._note_adapted,
            )
        )

    def use(self, step_plan: StepPlan) -> None:
        """Compute further steps like this."""
        self._adapting.step_plan = step_plan

    @property
    def step_plan(self) -> StepPlan:
        """How steps are computed now."""
        return self._adapting.step_plan

    @property
    def progress(self) -> Progress:
        """Steps done, best evaluation and skipped steps so far."""
        return self._progress

    def run(self) -> Iterator[Event]:
        """Train to the end, yielding what happens.

        Raises DataError when training diverges, CapacityError when the disk stays full, OutOfMemory
        when no way to compute a step is left, and Interrupted after `request_stop`; the last good
        state has been saved where that is possible. However it ends, nothing is being written any
        more.
        """
        yield Started(
            step=self._progress.step,
            total_steps=self._recipe.total_steps,
            num_train_rows=len(self._train_rows),
            num_eval_rows=len(self._eval_rows),
            num_trainable=self._optimizer.num_parameters,
        )
        try:
            yield from self._steps()
        except (Interrupted, OutOfMemory):
            self._metrics.flush()
            yield from self._save(on_schedule=False, must=True)
            raise
        finally:
            self._saver.settle()
        if self._recipe.load_best_model_at_end and self._progress.best_step is not None:
            best = self._run_folder.path / f"checkpoint-{self._progress.best_step}"
            verify(best)
            read_state(best, self._optimizer)

    def _steps(self) -> Iterator[Event]:
        progress = self._progress
        if self._recipe.eval_on_start and progress.step == 0 and progress.evaluated_step is None:
            yield from self._evaluate()
        while True:
            yield from self._saved()
            # What is due after a step comes first: a run may have been stopped just before it.
            yield from self._finish_step()
            if self._is_over():
                break
            yield from self._step()
        self._metrics.flush()

    def _finish_step(self) -> Iterator[Event]:
        """Evaluate and save where that is due after the last completed step."""
        recipe, step = self._recipe, self._progress.step
        if step == 0:
            return
        is_last = step == recipe.total_steps
        if self._progress.evaluated_step != step and (is_last or _is_due(step, recipe.eval_steps)):
            yield from self._evaluate()
        if self._gave_up() and not is_last:
            is_last = True
            yield StoppedEarly(
                step=step,
                best_step=self._progress.best_step or 0,
                evaluations=self._progress.worse_in_a_row,
            )
        is_best = self._progress.best_step == step
        on_schedule = is_last or _is_due(step, recipe.save_steps)
        if on_schedule or is_best:
            yield from self._save(on_schedule=on_schedule, must=is_last)
        if self._progress.skipped_in_a_row >= MAX_SKIPPED_STEPS:
            yield from self._save(on_schedule=True, must=True)
            raise _diverged(step)

    def _is_over(self) -> bool:
        return self._progress.step >= self._recipe.total_steps or self._gave_up()

    def _gave_up(self) -> bool:
        patience = self._recipe.early_stopping_patience
        return 0 < patience <= self._progress.worse_in_a_row

    def _check_stop(self) -> None:
        if self._stop_requested:
            raise Interrupted

    def _step(self) -> Iterator[Event]:
        """Do one optimizer step, or leave the weights as they are where it is not finite."""
        step = self._progress.step
        rate = self._recipe.schedule.rate(step, total_steps=self._recipe.total_steps)

        def compute(step_plan: StepPlan) -> tuple[StepResult, float]:
            started = time.perf_counter()
            result = self._compute_step(step_plan, rate)
            return result, time.perf_counter() - started

        result, seconds = yield from self._adapting.until_it_fits(
            compute,
            lambda: self._batches.examples_of(step),
            moment="step",
            step=step + 1,
            note=self._note_adapted,
        )
        self._progress = self._progress.after_step(applied=result.applied, scale=result.scale)
        if not result.applied:
            rows = self._batches.rows_of(step)
            places = tuple(self._places[row] if self._places else str(row + 1) for row in rows)
            self._record(event="skipped", rows=", ".join(places))
            yield StepSkipped(step=step + 1, rows=places)
            return
        done = StepDone(
            step=step + 1,
            epoch=self._epoch(step + 1),
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            num_tokens=result.num_tokens,
            seconds=seconds,
            memory_bytes=used_bytes(self._base.device.torch_device),
        )
        scale = {"loss_scale": result.scale.value} if result.scale.value != 1.0 else {}
        self._record(
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            num_tokens=done.num_tokens,
            seconds=round(done.seconds, 4),
            **scale,
        )
        yield done

    def _compute_step(self, step_plan: StepPlan, learning_rate: float) -> StepResult:
        step = self._progress.step
        return optimizer_step(
            self._base,
            self._method,
            self._optimizer,
            self._batches.take(step, step_plan.micro_batch_tokens),
            step_plan=step_plan,
            step=step,
            learning_rate=learning_rate,
            max_grad_norm=self._recipe.max_grad_norm,
            scale=self._progress.scale,
            between=self._check_stop,
            meanwhile=self._prepare_next,
        )

    def _prepare_next(self) -> None:
        """Pack the step after the one in flight, if there is one."""
        following = self._progress.step + 1
        if following < self._recipe.total_steps:
            self._batches.prepare(following, self.step_plan.micro_batch_tokens)

    def _evaluate(self) -> Iterator[Event]:
        if not self._eval_rows:
            return
        step = self._progress.step

        def compute(step_plan: StepPlan) -> tuple[Evaluation, float]:
            started = time.perf_counter()
            result = evaluate(
                self._base,
                self._method.eval_linear(),
                self._eval_rows,
                micro_batch_tokens=step_plan.micro_batch_tokens,
                chunk_rows=step_plan.chunk_rows,
                between=self._check_stop,
            )
            return result, time.perf_counter() - started

        result, seconds = yield from self._adapting.until_it_fits(
            compute,
            lambda: [example for row in self._eval_rows for example in row],
            moment="evaluation",
            step=step,
            note=self._note_adapted,
        )
        per_sample = self._recipe.metric_for_best_model == "eval_loss_per_sample"
        metric = result.loss_per_sample if per_sample else result.loss
        self._progress = self._progress.after_evaluation(metric)
        self._record(
            eval_loss=result.loss,
            eval_loss_per_sample=result.loss_per_sample,
            eval_seconds=round(seconds, 4),
        )
        yield Evaluated(
            step=step,
            epoch=self._epoch(step),
            loss=result.loss,
            loss_per_sample=result.loss_per_sample,
            seconds=seconds,
            is_best=step > 0 and self._progress.best_step == step,
        )

    def _save(self, *, on_schedule: bool, must: bool) -> Iterator[Event]:
        """Begin a checkpoint of the last completed step, unless this process has saved it.

        Where the disk is full the run goes on and tries again when the next one is due. A save that
        must succeed is waited for.
        """
        yield from self._saved(wait=True)
        if self._saved_step == self._progress.step:
            return
        if not on_schedule:
            self._progress = self._progress.with_provisional(self._progress.step)
        self._saver.start(self._progress, behind=not must)
        yield from self._saved(wait=must, must=must)

    def _saved(self, *, wait: bool = False, must: bool = False) -> Iterator[Event]:
        """Tell how the last save went, once it has come to its end.

        Raises CapacityError for one that must succeed, and for the second failure in a row.
        """
        result = self._saver.result(wait=wait)
        if result is None:
            return
        if result.fault is None:
            self._saved_step, self._failed_saves = result.step, 0
            self._progress = self._progress.keeping(result.needed)
            folder = self._run_folder.path / f"checkpoint-{result.step}"
            yield Saved(step=result.step, folder=folder)
            return
        self._failed_saves += 1
        if must or self._failed_saves >= MAX_FAILED_SAVES:
            raise result.fault
        yield NotSaved(step=result.step, what=result.fault.what, why=result.fault.why)

    def _note_adapted(self, change: Adapted) -> None:
        """Record that memory ran out; and let a checkpoint being written give back its copy."""
        way = asdict(change.step_plan)
        self._record_at(change.step, event="out_of_memory", moment=change.moment, **way)
        self._saver.settle()

    def _record(self, **values: float | str) -> None:
        self._record_at(self._progress.step, **values)

    def _record_at(self, step: int, /, **values: float | str) -> None:
        self._metrics.append({"step": step, "epoch": round(self._epoch(step), 4), **values})

    def _epoch(self, step: int) -> float:
        per_epoch = steps_per_epoch(len(self._train_rows), self._recipe.rows_per_step)
        return step / per_epoch


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _diverged(step: int) -> DataError:
    return DataError(
        _("Training stopped at step {step}: the loss is not finite any more.").format(step=step),
        why=_("{count} steps in a row gave NaN or infinity; none of them was applied.").format(
            count=MAX_SKIPPED_STEPS
        ),
        fix=_(
            "Try a lower --learning_rate; the last good weights are in checkpoint-{step}."
        ).format(step=step),
    )
