"""How a training run looks while it runs: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from danlu.cli.findings import data_lines
from danlu.language import _
from danlu.train.events import Evaluated, Event, Resumed, Saved, Started, StepDone, StepSkipped
from danlu.train.finetune import Finetune


def describe(job: Finetune) -> list[str]:
    """Say in a few lines what will be trained, on what, and how; nothing is chosen silently."""
    data, recipe, settings = job.data, job.recipe, job.settings
    dtype: str = settings.dtype
    if dtype == "auto":
        dtype = str(job.device.preferred_dtype).removeprefix("torch.")
    return [
        _("Model {model} on {device} ({dtype}, {threads} threads), {kind}").format(
            model=settings.model_name_or_path,
            device=job.device.description,
            dtype=dtype,
            threads=job.device.threads,
            kind=settings.finetuning_type,
        ),
        *data_lines(data.report),
        _("{steps} steps of {rows} rows").format(
            steps=recipe.total_steps, rows=recipe.rows_per_step
        ),
    ]


def show_training(job: Finetune, *, logging_steps: int) -> None:
    """Run a job to its end and show it. Ctrl-C saves and stops; a second one leaves at once."""
    with _ctrl_c_stops(job):
        if sys.stdout.isatty():
            with _Bar() as bar:
                for event in job.run():
                    bar.show(event)
        else:
            lines = _Lines(logging_steps)
            for event in job.run():
                lines.show(event)


@contextmanager
def _ctrl_c_stops(job: Finetune) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        job.request_stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Bar:
    """The live bar: step, losses, learning rate, speed, time left."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[step]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=Console(highlight=False),
        )
        self._task = TaskID(0)
        self._speed = _Speed()
        self._total = 0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Update the bar; evaluations and trouble stay as lines above it."""
        if isinstance(event, Started):
            self._total = event.total_steps
            self._task = self._progress.add_task(
                "", total=event.total_steps, completed=event.step, step="", numbers=""
            )
        elif isinstance(event, StepDone):
            self._progress.update(
                self._task,
                completed=event.step,
                step=f"{event.step}/{self._total}",
                numbers=_numbers(event, self._speed.after(event)),
            )
        else:
            for line in _sentences(event):
                self._progress.print(line)


class _Lines:
    """One line every so many steps."""

    def __init__(self, every: int) -> None:
        self._every = max(1, every)
        self._speed = _Speed()
        self._total = 0

    def show(self, event: Event) -> None:
        """Print the event if it is worth a line."""
        if isinstance(event, Started):
            self._total = event.total_steps
        if isinstance(event, StepDone):
            speed = self._speed.after(event)
            if event.step % self._every == 0 or event.step in (1, self._total):
                print(f"{event.step}/{self._total} {_numbers(event, speed)}", flush=True)
        for line in _sentences(event):
            print(line, flush=True)


class _Speed:
    """Tokens per second over the whole run so far, evaluations excepted."""

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0

    def after(self, event: StepDone) -> float:
        self._tokens += event.num_tokens
        self._seconds += event.seconds
        return self._tokens / max(self._seconds, 1e-9)


def _numbers(event: StepDone, speed: float) -> str:
    return _("loss {loss:.4f}  lr {rate:.1e}  grad {norm:.2f}  {speed:.0f} tokens/s").format(
        loss=event.loss, rate=event.learning_rate, norm=event.grad_norm, speed=speed
    )


def _sentences(event: Event) -> list[str]:
    if isinstance(event, Evaluated):
        best = f"  ({_('best so far')})" if event.is_best else ""
        text = _("held-out loss {loss:.4f} at step {step}").format(loss=event.loss, step=event.step)
        return [text + best]
    if isinstance(event, StepSkipped):
        rows = ", ".join(str(row + 1) for row in event.rows)
        return [
            _("step {step} was not applied: its loss is not finite (rows {rows})").format(
                step=event.step, rows=rows
            )
        ]
    if isinstance(event, Resumed):
        lines = [_("going on after step {step}").format(step=event.step)]
        return [*(_("skipped: {what}").format(what=what) for what in event.damaged), *lines]
    if isinstance(event, Saved):
        return [_("saved {folder}").format(folder=event.folder.name)]
    return []
