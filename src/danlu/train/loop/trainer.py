"""The training loop: optimizer steps over packed rows, evaluation, checkpoints.

Which rows a step takes is a pure function of (seed, step); together with stateless dropout this
makes a resumed run bit-identical on the CPU, with no random state to save.

Knows tensors and runs; must not know flags, terminals or data files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

import torch
from torch import Tensor

from danlu.data.tokens.examples import Example
from danlu.device.group import ALONE, Group, GroupBroken
from danlu.device.memory import free_cache, is_out_of_memory, trim_heap, used_bytes
from danlu.errors import DataError
from danlu.files.committed import verify
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
    Moment,
    Started,
    StepDone,
    StepSkipped,
    StoppedEarly,
)
from danlu.train.fit.ladder import OutOfMemory, adapted, leanest
from danlu.train.loop.batches import StepBatches, share_of
from danlu.train.loop.evaluate import evaluate
from danlu.train.loop.method import Method
from danlu.train.loop.optimizer import Optimizer
from danlu.train.loop.precision import LossScale
from danlu.train.loop.probe import probe, probe_examples, probe_tokens
from danlu.train.loop.saving import Saver, Saves, SavesNothing
from danlu.train.loop.step import StepResult, Wishes, optimizer_step
from danlu.train.loop.training_state import Progress, read_state
from danlu.train.recipe import Recipe, steps_per_epoch

# After this many steps in a row without a finite gradient the run stops.
MAX_SKIPPED_STEPS = 3

Row = Sequence[Example]
Result = TypeVar("Result")
# So often unused memory goes back to the system: it costs as much as 3 % of a tiny model's step.
_TRIM_STEPS = 10


class Interrupted(Exception):
    """The run was asked to stop; the last completed step has been saved."""


class Trainer:
    """One run. Create, optionally `resume`, then iterate over `run()`.

    step_plan: how steps are computed; it may be replaced between steps, and is where memory runs
    out. run_folder: None in a process that another one of the group leads. places: where each
    training row stands, to name those of a step that was skipped. is_shared: each process of the
    group holds a share of the base, so all have to compute as many microsteps.
    """

    def __init__(
        self,
        *,
        method: Method,
        recipe: Recipe,
        step_plan: StepPlan,
        train_rows: Sequence[Row],
        eval_rows: Sequence[Row],
        run_folder: RunFolder | None,
        places: Sequence[str] = (),
        group: Group = ALONE,
        is_shared: bool = False,
    ) -> None:
        base = method.base
        self.step_plan = step_plan
        self._method = method
        self._device = base.device
        self._recipe = recipe
        self._train_rows = train_rows
        self._eval_rows = eval_rows
        self._folder = None if run_folder is None else run_folder.path
        self._places = places
        self._group = group
        self._is_shared = is_shared
        # Whether what is trained is divided, too.
        self._is_divided = is_shared and method.trains_base
        self._batches = StepBatches(
            train_rows,
            rows_per_step=recipe.rows_per_step,
            seed=recipe.seed,
            device=base.device.torch_device,
            multiple=base.token_multiple,
            group=group,
            in_step=is_shared,
        )
        self._metrics = None if self._folder is None else Metrics(self._folder)
        self._optimizer = Optimizer(
            method.parameters(),
            weight_decay=recipe.weight_decay,
            betas=recipe.adam_betas,
            eps=recipe.adam_epsilon,
            shares=group if self._is_divided else ALONE,
        )
        self._saver: Saves = SavesNothing(
            group, method=method, optimizer=self._optimizer, gives=self._is_divided
        )
        if self._folder is not None and self._metrics is not None:
            self._saver = Saver(
                self._folder,
                method=method,
                optimizer=self._optimizer,
                metrics=self._metrics,
                save_total_limit=recipe.save_total_limit,
                group=group,
                tells=self._is_divided,
            )
        self._progress = Progress(scale=LossScale.first_for(base.dtype))
        self._stop_requested = False
        self._ran_out = False

    def request_stop(self) -> None:
        """Abandon the step in flight, save the last completed one and raise Interrupted.

        In a group the step is completed, as the others count on this process's share.
        """
        self._stop_requested = True

    def resume(self, step: int) -> None:
        """Continue from checkpoint-`step`, which has been verified; the lead reads it for all."""
        if self._folder is not None:
            self._progress = read_state(self._folder / f"checkpoint-{step}", self._optimizer)
            truncate_after(self._folder, step)
        elif self._is_divided:
            self._optimizer.restore(None, 0)
        if not self._group.is_alone:
            self._progress = Progress.from_fields(self._group.told(self._progress.as_fields()))
        if not self._group.is_alone and not self._is_divided:
            self._optimizer.take_over(self._group)
        self._method.weights_changed()
        self._saver.resume(self._progress)

    @property
    def progress(self) -> Progress:
        """Steps done, best evaluation and skipped steps so far."""
        return self._progress

    def weights(self) -> Tensor:
        """Return a copy of the trained numbers, fp32 [num_trainable], on the CPU."""
        return torch.cat(self._optimizer.weights()).cpu()

    def measure(self, plan: Plan) -> Generator[Event, None, list[ProbeFigure]]:
        """Run two tiny microsteps and return their figures; nothing is learned from them.

        Raises OutOfMemory where not even they fit, and Interrupted after `request_stop`.
        """

        def most_tokens() -> int:
            return probe_tokens(plan.with_step_plan(self.step_plan))

        figures, _seconds = yield from self._until_it_fits(
            lambda: self._probe(
                self._group.told(most_tokens()) if self._is_shared else most_tokens()
            ),
            lambda: probe_examples(self._train_rows, most_tokens())[1],
            moment="probe",
            step=0,
        )
        outside = plan.device.context_bytes if plan.device.has_host else 0
        return [replace(figure, peak_bytes=figure.peak_bytes + outside) for figure in figures]

    def help_to_measure(self) -> None:
        """Give this process's share of the base to what the lead measures."""
        self._probe(self._group.told())

    def _probe(self, most_tokens: int) -> list[ProbeFigure]:
        return probe(
            self._method,
            probe_examples(self._train_rows, most_tokens),
            self.step_plan,
            clear=self._optimizer.zero_grad,
            between=self._check_stop,
        )

    def run(self) -> Iterator[Event]:
        """Train to the end, yielding what happens.

        Raises DataError when training diverges, CapacityError when the disk stays full, OutOfMemory
        when no way to compute a step is left, Interrupted after `request_stop`, and GroupBroken
        where another process has ended; the last good state has been saved where that is possible,
        and nothing is being written any more.
        """
        yield Started(step=self._progress.step, total_steps=self._recipe.total_steps)
        try:
            while True:
                yield from self._saver.outcome()
                # What follows a step comes first: a run may have been stopped between the two.
                if self._should_evaluate():
                    yield from self._evaluate()
                if self._gave_up() and self._progress.step < self._recipe.total_steps:
                    yield self._stopped_early()
                yield from self._save_if_due()
                if self._progress.skipped_in_a_row >= MAX_SKIPPED_STEPS:
                    yield from self._saver.save(self._progress, on_schedule=True, must=True)
                    raise _diverged(self._progress.step)
                if self._is_over():
                    break
                yield from self._step()
            self._flush()
        except (Interrupted, OutOfMemory, GroupBroken) as ended:
            self._flush()
            if self._is_divided and not isinstance(ended, Interrupted):
                raise  # the others give their shares no more
            yield from self._saver.save(self._progress, on_schedule=False, must=True)
            raise
        finally:
            self._saver.settle()
        self._take_best()

    def _take_best(self) -> None:
        best = self._progress.best_step
        if not self._recipe.load_best_model_at_end or best is None:
            return
        if self._folder is not None:
            verify(self._folder / f"checkpoint-{best}")
            read_state(self._folder / f"checkpoint-{best}", self._optimizer)
        elif self._is_divided:
            self._optimizer.restore(None, 0)

    def _should_evaluate(self) -> bool:
        recipe, step = self._recipe, self._progress.step
        if not self._eval_rows or self._progress.evaluated_step == step:
            return False
        if step == 0:
            return recipe.eval_on_start
        return step == recipe.total_steps or _is_due(step, recipe.eval_steps)

    def _save_if_due(self) -> Iterator[Event]:
        """Save on schedule, at the end, and each new best evaluation."""
        progress, is_last = self._progress, self._is_over()
        on_schedule = is_last or _is_due(progress.step, self._recipe.save_steps)
        if on_schedule or progress.best_step == progress.step:
            yield from self._saver.save(progress, on_schedule=on_schedule, must=is_last)

    def _is_over(self) -> bool:
        return self._progress.step >= self._recipe.total_steps or self._gave_up()

    def _gave_up(self) -> bool:
        patience = self._recipe.early_stopping_patience
        return 0 < patience <= self._progress.worse_in_a_row

    def _stopped_early(self) -> StoppedEarly:
        return StoppedEarly(
            step=self._progress.step,
            best_step=self._progress.best_step or 0,
            evaluations=self._progress.worse_in_a_row,
        )

    def _check_stop(self) -> None:
        """Leave a computation where this process decides by itself."""
        if self._stop_requested and self._group.is_alone:
            raise Interrupted

    def _step(self) -> Iterator[Event]:
        """Do one optimizer step, or leave the weights as they are where it is not finite."""
        step = self._progress.step
        rate = self._recipe.schedule.rate(step, total_steps=self._recipe.total_steps)
        result, seconds = yield from self._until_it_fits(
            lambda: self._compute_step(rate),
            lambda: self._batches.examples_of(step),
            moment="step",
            step=step + 1,
        )
        self._progress = self._progress.after_step(applied=result.applied, scale=result.scale)
        if not result.applied:
            rows = self._batches.rows_of(step)
            places = tuple(self._places[row] if self._places else str(row + 1) for row in rows)
            self._record(step + 1, event="skipped", rows=", ".join(places))
            yield StepSkipped(step=step + 1, rows=places)
            yield from self._heed(result.wishes, step + 1)
            return
        if _is_due(step + 1, _TRIM_STEPS):
            trim_heap()
        scale = {"loss_scale": result.scale.value} if result.scale.value != 1.0 else {}
        memory = used_bytes(self._device.torch_device)
        self._record(
            step + 1,
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            num_tokens=result.num_tokens,
            seconds=round(seconds, 4),
            memory_bytes=memory,
            **scale,
        )
        yield StepDone(
            step=step + 1,
            epoch=self._epoch(step + 1),
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            num_tokens=result.num_tokens,
            seconds=seconds,
            memory_bytes=memory,
        )
        yield from self._heed(result.wishes, step + 1)

    def _heed(self, wishes: Wishes, step: int) -> Iterator[Adapted]:
        """Do behind a step what processes of a group have asked for: all do it, or none."""
        if self._group.is_alone:
            return
        if wishes.leaner:
            self._ran_out = False
            agreed = leanest(self.step_plan, self._group)
            if agreed != self.step_plan:
                yield self._changed(Adapted(step=step, moment="step", step_plan=agreed))
        if wishes.stop:
            raise Interrupted

    def _compute_step(self, learning_rate: float) -> StepResult:
        step = self._progress.step
        return optimizer_step(
            self._method,
            self._optimizer,
            self._batches.take(step, self.step_plan.micro_batch_tokens),
            step_plan=self.step_plan,
            step=step,
            learning_rate=learning_rate,
            max_grad_norm=self._recipe.max_grad_norm,
            scale=self._progress.scale,
            group=self._group,
            wishes=lambda: Wishes(stop=self._stop_requested, leaner=self._ran_out),
            between=self._check_stop,
            meanwhile=self._prepare_next,
        )

    def _prepare_next(self) -> None:
        """Pack the step after the one in flight, if there is one."""
        following = self._progress.step + 1
        if following < self._recipe.total_steps:
            self._batches.prepare(following, self.step_plan.micro_batch_tokens)

    def _evaluate(self) -> Iterator[Event]:
        step = self._progress.step
        result, seconds = yield from self._until_it_fits(
            lambda: evaluate(
                self._method.base,
                self._method.eval_linear(),
                self._eval_rows,
                micro_batch_tokens=self.step_plan.micro_batch_tokens,
                chunk_rows=self.step_plan.chunk_rows,
                between=self._check_stop,
                group=self._group,
                in_step=self._is_shared,
            ),
            lambda: share_of([example for row in self._eval_rows for example in row], self._group),
            moment="evaluation",
            step=step,
        )
        per_sample = self._recipe.metric_for_best_model == "eval_loss_per_sample"
        metric = result.loss_per_sample if per_sample else result.loss
        self._progress = self._progress.after_evaluation(metric)
        self._record(
            step,
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

    def _until_it_fits(
        self,
        compute: Callable[[], Result],
        examples: Callable[[], Sequence[Example]],
        *,
        moment: Moment,
        step: int,
    ) -> Generator[Adapted, None, tuple[Result, float]]:
        """Compute; where memory runs out, again from the beginning with less, until it fits.

        examples: what is packed and computed. Yields every change of the step plan; returns the
        result and the seconds it took. Raises OutOfMemory where nothing leaner is left.
        """
        while True:
            started = time.perf_counter()
            try:
                with self._group.computing():
                    return compute(), time.perf_counter() - started
            except Exception as fault:
                if not is_out_of_memory(fault):
                    raise
            # Only here, behind the `except`, is the exception gone, and with it the frames of its
            # traceback, which held every tensor of the failed attempt.
            free_cache(self._device.torch_device)
            if self._is_shared:  # the others have gone on, and wait for this one's weights
                raise OutOfMemory(
                    moment=moment,
                    step=step,
                    longest=max(len(example.tokens) for example in examples()),
                    step_plan=self.step_plan,
                    is_shared=True,
                )
            change = adapted(
                self.step_plan,
                examples(),
                moment=moment,
                step=step,
                has_host=self._device.has_host,
            )
            self._ran_out = True
            self._saver.settle()  # a checkpoint being written gives back its copy
            yield self._changed(change)

    def _changed(self, change: Adapted) -> Adapted:
        """Compute from now on as a change says, and record it."""
        self.step_plan = change.step_plan
        self._record(
            change.step,
            event="out_of_memory",
            moment=change.moment,
            **asdict(change.step_plan),
        )
        return change

    def _record(self, step: int, /, **values: float | str) -> None:
        if self._metrics is not None:
            self._metrics.append({"step": step, "epoch": round(self._epoch(step), 4), **values})

    def _flush(self) -> None:
        if self._metrics is not None:
            self._metrics.flush()

    def _epoch(self, step: int) -> float:
        per_epoch = steps_per_epoch(len(self._train_rows), self._recipe.rows_per_step)
        return step / per_epoch


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


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
