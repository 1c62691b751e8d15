"""How a training run looks while it runs: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import errno
import os
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from danlu.cli.terminal.findings import data_lines
from danlu.cli.terminal.moved_aside import replaced_lines
from danlu.cli.terminal.signals import on_signals
from danlu.device.detect import Device, num_devices
from danlu.device.group import GroupBroken
from danlu.errors import EXIT_INTERRUPTED
from danlu.hub.chat_template import training_remarks
from danlu.hub.names import model_folder
from danlu.language import _, columns, wrapped
from danlu.moving_line import MovingLine, print_above
from danlu.ops import ops_table
from danlu.say import say
from danlu.train.events import (
    Adapted,
    Evaluated,
    Event,
    NotSaved,
    Planned,
    Replaced,
    Resumed,
    Saved,
    Started,
    StepDone,
    StepSkipped,
    StoppedEarly,
)
from danlu.train.job.finetune import Finetune
from danlu.train.job.plan_shown import precision_words, quantization_lines, summary, way
from danlu.train.job.setup import PreparedRun
from danlu.train.loop.trainer import Interrupted
from danlu.train.recipe import Recipe
from danlu.units import readable_bytes, readable_clock


def _described(run: PreparedRun) -> list[str]:
    """Say in a few lines what will be trained, on what, and how; nothing is chosen silently."""
    recipe, settings = run.task.recipe, run.settings
    return [
        _("Model {model} on {device} ({dtype}, {threads} threads), {kind}").format(
            model=settings.model_name_or_path,
            device=run.device.description,
            dtype=precision_words(run.precision.name, settings.base_form),
            threads=run.device.threads,
            kind=settings.finetuning_type,
        ),
        *([run.precision.note] if run.precision.note else []),
        *quantization_lines(settings),
        *_operations(run.device),
        *training_remarks(model_folder(settings.model_name_or_path), settings),
        *data_lines(run.task.data.report),
        _("{steps} steps of {rows} rows").format(
            steps=recipe.total_steps, rows=recipe.rows_per_step
        ),
        *_devices(run),
        *([] if run.plan is None else [way(run.plan.chosen), summary(run.plan)]),
        *_warm_up(recipe),
    ]


def _operations(device: Device) -> list[str]:
    table = ops_table(device.torch_device)
    return [*table.describe(), *table.warn()]


def _devices(run: PreparedRun) -> Iterator[str]:
    """Say how many devices share a step, and how many could."""
    here = num_devices(run.device.kind) or 1
    if run.group.is_alone and here > 1:
        yield _(
            "One of the {count} devices that are here trains; all of them do with --num_devices "
            "{count}"
        ).format(count=here)
    elif not run.group.is_alone:
        text = _("{count} devices share each step; each holds the whole model")
        if not run.shared_by.is_alone:
            text = _(
                "{count} devices share each step; each holds a share of the model, which does not "
                "fit on one"
            )
        yield text.format(count=run.group.size)
    if run.began_with != run.group.size:
        yield _(
            "The run began with {before} devices: its steps keep their rows, last bits may differ"
        ).format(before=run.began_with)


def _warm_up(recipe: Recipe) -> Iterator[str]:
    """Say that a run ends before its learning rate has reached its peak."""
    warm_up = recipe.schedule.warmup_steps
    if recipe.schedule.name != "constant" and warm_up >= recipe.total_steps:
        yield _(
            "ATTENTION: the warm-up takes {warm_up} steps and the run has {steps}: the learning "
            "rate never reaches {rate:g}, and little will be learned. Use --warmup_steps 0 "
            "--warmup_ratio 0.1, or raise --num_train_epochs."
        ).format(warm_up=warm_up, steps=recipe.total_steps, rate=recipe.schedule.peak)


_GAP = "  "
_BAR = 20
# A pipe without a reader, a terminal whose window was closed.
_READER_GONE = (errno.EPIPE, errno.EIO)


def show_training(job: Finetune) -> None:
    """Say what a job trains, run it and show its events.

    Ctrl-C, SIGTERM, SIGHUP and a closed output save the last completed step and raise Interrupted;
    a second signal ends the process at once, and all files are valid then too.
    """
    every = job.prepared.task.recipe.logging_steps
    view = _Bar() if sys.stdout.isatty() else _Lines(every)
    with stopped_by_signals(job.request_stop):
        with _stopped_unread(job.request_stop):
            say(*_described(job.prepared))
        with view:
            for event in job.run(view.begin):
                with _stopped_unread(job.request_stop):
                    view.show(event)


@contextmanager
def _stopped_unread(request_stop: Callable[[], None]) -> Iterator[None]:
    """Ask to stop where nobody reads any more what the block says; a full disk is no reason to."""
    try:
        yield
    except OSError as fault:
        _be_silent()
        if fault.errno in _READER_GONE:
            request_stop()


def _be_silent() -> None:
    """Discard further output: nothing reads it any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def stopped_by_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """Turn the first signal into a request to stop; the second one ends the process at once.

    Raises KeyboardInterrupt where another process of the training ended at that signal.
    """
    ended = _("Ended at once. The same command with --resume_from_checkpoint true goes on.")
    is_stopping = False

    def heed() -> None:
        nonlocal is_stopping
        if is_stopping:
            leave()
        is_stopping = True
        request_stop()

    def leave(*_signal: object) -> None:
        # Every file is either complete or under a temporary name, so there is nothing to tidy up;
        # but a terminal without its cursor would stay so.
        try:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), f"\x1b[?25h\n{ended}\n".encode())
        finally:  # its window may be closed
            os._exit(EXIT_INTERRUPTED)

    with on_signals(heed) as handlers:
        try:
            yield
        except Interrupted:
            # A window that closes is noticed twice, by a failed write and by SIGHUP. Whichever
            # comes late must not change how the program ends.
            handlers.update(dict.fromkeys(handlers, leave))
            raise
        except GroupBroken as fault:
            if is_stopping:
                raise KeyboardInterrupt from fault
            raise


class _View(AbstractContextManager["_View"]):
    """What shows a run; entered before its first event. Keeps totals and the last evaluation."""

    def __init__(self) -> None:
        self._total_steps = 0
        self._eval_loss: float | None = None
        self._tokens = 0
        self._seconds = 0.0
        self._steps = 0

    def __exit__(self, *_error: object) -> None:
        return None

    def show(self, event: Event) -> None:
        """Show an event, or leave it."""
        if isinstance(event, Started):
            self._total_steps = event.total_steps
        elif isinstance(event, Evaluated):
            self._eval_loss = event.loss
        elif isinstance(event, StepDone):
            self._tokens += event.num_tokens
            self._seconds += event.seconds
            self._steps += 1
            self._show_step(event)
        elif isinstance(event, Replaced):
            for line in replaced_lines(event):
                self._say(line)
        for line in _sentences(event):
            self._say(line)

    def begin(self, what: str, done: int, total: int) -> None:
        """Show what is done before the first step, or leave it."""

    @abstractmethod
    def _show_step(self, event: StepDone) -> None: ...

    @abstractmethod
    def _say(self, line: str) -> None: ...

    def _numbers(self, event: StepDone) -> list[str]:
        parts = [
            _("epoch {epoch:.2f}").format(epoch=event.epoch),
            _("loss {loss:.4f}").format(loss=event.loss),
        ]
        if self._eval_loss is not None:
            parts.append(_("held-out {loss:.4f}").format(loss=self._eval_loss))
        parts += [
            _("lr {rate:.1e}").format(rate=event.learning_rate),
            _("grad {norm:.2f}").format(norm=event.grad_norm),
            # Over the whole run so far, evaluations excepted.
            _("{speed:.0f} tokens/s").format(speed=self._tokens / max(self._seconds, 1e-9)),
            readable_bytes(event.memory_bytes),
        ]
        return parts

    def _left(self, event: StepDone) -> str:
        """Estimate the time to the last step."""
        return readable_clock(
            self._seconds / max(1, self._steps) * (self._total_steps - event.step)
        )


class _Bar(_View):
    """The live display: a bar with steps and times, and below it the numbers of the last step.

    Evaluations and trouble stay as lines above it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()
        self._last: StepDone | None = None
        self._beginning = MovingLine(_("Taking the output folder"))
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=8, get_renderable=self._picture)

    def __enter__(self) -> _Bar:
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self._live.stop()
        except OSError:  # the window was closed
            _be_silent()

    def begin(self, what: str, done: int, total: int) -> None:
        self._beginning.show(what, done, total)

    def _show_step(self, event: StepDone) -> None:
        self._last = event

    def _say(self, line: str) -> None:
        # Rich would break a command that is longer than a line, which could then not be copied.
        text = Text("\n".join(wrapped(line, self._console.width)))
        print_above(self._live, text, soft_wrap=True)

    def _picture(self) -> Text:
        last, total = self._last, self._total_steps
        if last is None or not total:
            return self._beginning.picture(self._console.width)
        done = round(_BAR * last.step / total)
        bar = "█" * done + "░" * (_BAR - done)
        elapsed = readable_clock(time.monotonic() - self._started)
        times = _("{elapsed} elapsed, {left} left").format(elapsed=elapsed, left=self._left(last))
        # Of what grows as it goes on, nothing may reach the terminal's edge: a line that the
        # terminal breaks by itself is not taken away again. Terminals for Chinese may draw the
        # bar in double width.
        room = self._console.width - 1
        first = lines_of([f"{last.step}/{total} {bar}", times], room - _BAR)
        picture = Text("\n".join([*first, *lines_of(self._numbers(last), room)]), no_wrap=True)
        picture.highlight_regex("█+", "green")
        return picture


class _Lines(_View):
    """Plain text: a line every `every` steps."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every

    def _show_step(self, event: StepDone) -> None:
        total = self._total_steps
        if event.step % self._every == 0 or event.step in (1, total):
            left = _("{left} left").format(left=self._left(event))
            self._say(f"{event.step}/{total}  {_GAP.join(self._numbers(event))}  {left}")

    def _say(self, line: str) -> None:
        say(line)


def lines_of(parts: Sequence[str], width: int) -> Iterator[str]:
    """Join parts into lines of at most `width` columns, each part whole."""
    line = parts[0]
    for part in parts[1:]:
        if columns(line + _GAP + part) > width:
            yield line
            line = part
        else:
            line += _GAP + part
    yield line


def _sentences(event: Event) -> Iterator[str]:
    if isinstance(event, Evaluated):
        text = _("held-out loss {loss:.4f} at step {step}")
        if event.is_best:
            text = _("held-out loss {loss:.4f} at step {step} (best so far)")
        yield text.format(loss=event.loss, step=event.step)
    elif isinstance(event, StepSkipped):
        rows = ", ".join(event.rows[:4]) + (", ..." if len(event.rows) > 4 else "")
        yield _("step {step} was not applied: its loss is not finite (rows {rows})").format(
            step=event.step, rows=rows
        )
    elif isinstance(event, StoppedEarly):
        yield _(
            "stopping early: {count} evaluations without a better one than at step {step}"
        ).format(count=event.evaluations, step=event.best_step)
    elif isinstance(event, Resumed):
        yield from (_("skipped: {what}").format(what=what) for what in event.damaged)
        if event.other_ops:
            yield _("computed otherwise than before, last bits may differ: {changes}").format(
                changes=", ".join(event.other_ops)
            )
        yield _("going on after step {step}").format(step=event.step)
    elif isinstance(event, NotSaved):
        yield _("not saved, trying again later: {what} {why}").format(
            what=event.what, why=event.why
        )
    elif isinstance(event, Adapted):
        yield f"{_moment(event)}: {_from_now_on(event)}"
    elif isinstance(event, Planned):
        yield _("measured: {summary}").format(summary=summary(event.plan))
    elif isinstance(event, Saved):
        yield _("saved {folder}").format(folder=event.folder.name)


def _moment(event: Adapted) -> str:
    if event.moment == "probe":
        return _("out of memory in a tiny step before the first")
    if event.moment == "step":
        return _("out of memory at step {step}").format(step=event.step)
    return _("out of memory in the evaluation at step {step}").format(step=event.step)


def _from_now_on(event: Adapted) -> str:
    way = event.step_plan
    return _(
        "from now on micro-batches of {tokens} tokens, {rows} rows of logits at a time, "
        "recompute {policy}"
    ).format(tokens=way.micro_batch_tokens, rows=way.chunk_rows, policy=way.recompute)
