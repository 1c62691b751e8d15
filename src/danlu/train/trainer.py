"""The training loop: optimizer steps over packed rows, evaluation, checkpoints.

One optimizer step takes a fixed number of rows, packs their examples into as few micro-batches as
allowed, and divides the summed loss by the supervised tokens of the whole step, so the update does
not depend on the packing. Which rows a step takes is a pure function of (seed, step); together
with stateless dropout this makes a resumed run bit-identical on the CPU, with no random state to
save.

Knows tensors and runs; must not know flags, terminals or data files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.data.examples import Example
from danlu.data.order import epoch_order
from danlu.data.pack import Batch, pack
from danlu.errors import DataError
from danlu.files.committed import verify
from danlu.language import _
from danlu.model.attention import PackedAttention
from danlu.model.qwen3 import Linear
from danlu.models.load import LoadedModel
from danlu.runs.checkpoints import commit_checkpoint, prune
from danlu.runs.folder import RunFolder
from danlu.runs.metrics import append_metrics, truncate_after
from danlu.train.checkpoint import Progress, read_state, write_state
from danlu.train.events import Evaluated, Event, Saved, Started, StepDone, StepSkipped
from danlu.train.loss import loss_backward, loss_sum
from danlu.train.method import Method
from danlu.train.optimizer import Optimizer
from danlu.train.schedule import learning_rate

# After this many steps in a row without a finite gradient the run stops.
MAX_SKIPPED_STEPS = 3

Row = Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a run; names as in Hugging Face's TrainingArguments where they exist there.

    rows_per_step: per_device_train_batch_size x gradient_accumulation_steps. eval_steps and
    save_steps 0 mean only at the end. micro_batch_tokens bounds the memory of one microstep.
    """

    total_steps: int
    rows_per_step: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    seed: int
    eval_on_start: bool
    eval_steps: int
    save_steps: int
    save_total_limit: int | None
    load_best_model_at_end: bool
    micro_batch_tokens: int


def steps_per_epoch(num_rows: int, rows_per_step: int) -> int:
    """Count the optimizer steps of an epoch; the last one may hold fewer rows."""
    return -(-num_rows // rows_per_step)


class Interrupted(Exception):
    """The run was asked to stop; the last completed step has been saved."""


class Trainer:
    """One run. Create, optionally `resume`, then iterate over `run()`."""

    def __init__(
        self,
        *,
        base: LoadedModel,
        method: Method,
        recipe: Recipe,
        train_rows: Sequence[Row],
        eval_rows: Sequence[Row],
        run_folder: RunFolder,
    ) -> None:
        self._base = base
        self._method = method
        self._recipe = recipe
        self._train_rows = train_rows
        self._eval_rows = eval_rows
        self._run_folder = run_folder
        self._optimizer = Optimizer(
            method.named_parameters(),
            weight_decay=recipe.weight_decay,
            fused=base.device.has_fused_adamw,
        )
        self._progress = Progress()
        self._saved_step: int | None = None
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

    @property
    def progress(self) -> Progress:
        """Steps done, best evaluation and skipped steps so far."""
        return self._progress

    def run(self) -> Iterator[Event]:
        """Train to the end, yielding what happens.

        Raises DataError when training diverges and Interrupted after `request_stop`; in both cases
        the last good state has been saved as a checkpoint.
        """
        recipe = self._recipe
        yield Started(
            step=self._progress.step,
            total_steps=recipe.total_steps,
            num_train_rows=len(self._train_rows),
            num_eval_rows=len(self._eval_rows),
            num_trainable=self._optimizer.num_parameters,
        )
        if recipe.eval_on_start and self._progress.step == 0:
            yield from self._evaluate()
        while self._progress.step < recipe.total_steps:
            yield self._guarded_step()
            step = self._progress.step
            is_last = step == recipe.total_steps
            if is_last or (recipe.eval_steps and step % recipe.eval_steps == 0):
                yield from self._evaluate()
            if is_last or (recipe.save_steps and step % recipe.save_steps == 0):
                yield from self._save()
            if self._progress.skipped_in_a_row >= MAX_SKIPPED_STEPS:
                yield from self._save()
                raise _diverged(step)
        if recipe.load_best_model_at_end and self._progress.best_step is not None:
            best = self._run_folder.path / f"checkpoint-{self._progress.best_step}"
            verify(best)
            read_state(best, self._optimizer)

    def _guarded_step(self) -> Event:
        try:
            return self._step()
        except Interrupted:
            for _saved in self._save():
                pass
            raise

    def _step(self) -> Event:
        """Do one optimizer step, or abandon it untouched when its numbers are not finite."""
        recipe, started = self._recipe, time.perf_counter()
        step = self._progress.step
        rows = self._rows_of(step)
        batches = pack([e for r in rows for e in self._train_rows[r]], recipe.micro_batch_tokens)
        divisor = sum(len(batch.targets) for batch in batches)
        self._optimizer.zero_grad()
        loss = torch.zeros((), device=self._base.device.torch_device)
        for batch in batches:
            if self._stop_requested:
                raise Interrupted
            linear = self._method.linear(batch, step)
            hidden, targets = self._forward(batch, linear)
            loss += loss_backward(self._base.model, linear, hidden, targets, divisor=divisor)
        grad_norm = self._optimizer.clip(recipe.max_grad_norm)
        rate = learning_rate(
            step,
            peak=recipe.learning_rate,
            warmup_steps=recipe.warmup_steps,
            total_steps=recipe.total_steps,
        )
        mean, norm = float(loss) / divisor, float(grad_norm)
        finite = torch.isfinite(loss + grad_norm).item()
        if finite:
            self._optimizer.step(rate)
        self._progress = self._progress.after_step(applied=bool(finite))
        if not finite:
            self._record(event="skipped", rows=",".join(str(row + 1) for row in rows))
            return StepSkipped(step=step + 1, rows=tuple(rows))
        done = StepDone(
            step=step + 1,
            epoch=self._epoch(),
            loss=mean,
            learning_rate=rate,
            grad_norm=norm,
            num_tokens=sum(len(batch.tokens) for batch in batches),
            seconds=time.perf_counter() - started,
        )
        self._record(
            loss=mean,
            learning_rate=rate,
            grad_norm=norm,
            num_tokens=done.num_tokens,
            seconds=round(done.seconds, 4),
        )
        return done

    def _rows_of(self, step: int) -> list[int]:
        """Tell which rows an optimizer step takes: a pure function of (seed, step)."""
        num_rows, per_step = len(self._train_rows), self._recipe.rows_per_step
        epoch, index = divmod(step, steps_per_epoch(num_rows, per_step))
        order = epoch_order(num_rows, self._recipe.seed, epoch)
        return [int(row) for row in order[index * per_step : (index + 1) * per_step]]

    def _forward(self, batch: Batch, linear: Linear) -> tuple[Tensor, Tensor]:
        """Return the hidden rows [N, hidden] before supervised tokens, and these tokens [N]."""
        base = self._base
        device = base.device.torch_device
        tokens, positions, indices, targets = (
            torch.from_numpy(array).to(device, non_blocking=True)
            for array in (batch.tokens, batch.positions, batch.supervised_indices, batch.targets)
        )
        attend = PackedAttention(base.config, positions, batch.segment_lengths)
        hidden = base.model(tokens, attend, linear)
        return hidden.index_select(0, indices), targets

    def _evaluate(self) -> Iterator[Event]:
        if not self._eval_rows:
            return
        started = time.perf_counter()
        examples = [example for row in self._eval_rows for example in row]
        linear = self._method.eval_linear()
        total = torch.zeros((), device=self._base.device.torch_device)
        num_targets = 0
        with torch.no_grad():
            for batch in pack(examples, self._recipe.micro_batch_tokens):
                hidden, targets = self._forward(batch, linear)
                total += loss_sum(self._base.model, linear, hidden, targets)
                num_targets += len(targets)
        loss = float(total) / num_targets
        best = self._progress.best_loss
        is_best = self._progress.step > 0 and (best is None or loss < best)
        if is_best:
            self._progress = self._progress.with_best(loss)
        seconds = time.perf_counter() - started
        self._record(eval_loss=loss, eval_seconds=round(seconds, 4))
        yield Evaluated(
            step=self._progress.step,
            epoch=self._epoch(),
            loss=loss,
            seconds=seconds,
            is_best=is_best,
        )
        if is_best and self._recipe.load_best_model_at_end:
            yield from self._save()

    def _save(self) -> Iterator[Event]:
        """Commit a checkpoint of the last completed step, unless this process just did."""
        path, step = self._run_folder.path, self._progress.step
        if self._saved_step == step:
            return
        with commit_checkpoint(path, step) as draft:
            self._method.save(draft)
            write_state(draft, self._progress, self._optimizer)
        self._saved_step = step
        if self._recipe.save_total_limit is not None:
            best = self._progress.best_step
            protect = [] if best is None else [best]
            prune(path, keep=self._recipe.save_total_limit, protect=protect)
        yield Saved(step=step, folder=path / f"checkpoint-{step}")

    def _record(self, **values: float | str) -> None:
        epoch = round(self._epoch(), 4)
        record = {"step": self._progress.step, "epoch": epoch, **values}
        append_metrics(self._run_folder.path, record)

    def _epoch(self) -> float:
        per_epoch = steps_per_epoch(len(self._train_rows), self._recipe.rows_per_step)
        return self._progress.step / per_epoch


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
