"""Proof on the user's own device: operations, a training, a resumed one, checkpoints, an answer.

Everything is done with the starter model in a folder that is removed, under a home of its own, so
that no run of the user's is touched. What is found is checks like the doctor's.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from danlu.device.datasheets import facts_of
from danlu.device.detect import select
from danlu.dialog.assistant import open_assistant
from danlu.dialog.events import Usage, assistant_message
from danlu.dialog.settings import ModelSettings
from danlu.doctor.verdicts import Check, green, hint, red
from danlu.errors import DataError
from danlu.files.atomic import atomic_write
from danlu.files.committed import verify
from danlu.files.scratch import scratch_folder
from danlu.language import _
from danlu.ops import Tried, examine_operations, ops_table
from danlu.runs.checkpoints import list_checkpoints
from danlu.train.events import StepDone
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.settings import TrainSettings
from danlu.workflows.demo import DATA, Demo, ask

STEPS = 10
_HALF = STEPS // 2
# A resumed training repeats the rest bit by bit on the CPU. Ascend's sums along an index, and some
# of CUDA's, may come in another order each time.
_EQUAL = 1e-3
_QUESTION = "Count from 1 to 20."


class SelfTest:
    """One self-test; `run` yields what each part found as it is done."""

    def __init__(self, device: str = "auto") -> None:
        self.device = select(device)
        self._losses: list[float] = []
        self._demo = Demo(Path())

    def run(self) -> Iterator[Check]:
        """Do all parts; one that raises is red and does not end the others."""
        yield replace(green(f"{self.device.kind}: {self.device.description}"), name="device")
        with _own_home() as home:
            self._demo = Demo(home)
            for part in _PARTS:
                name = part.__name__.removeprefix("_")
                try:
                    for check in part(self):
                        yield replace(check, name=check.name or name)
                except Exception as fault:
                    words = f"{type(fault).__name__}: {fault}".strip()
                    yield replace(_broken(words), name=name)

    def steps(self, *, resume: bool | str = False) -> Iterator[StepDone]:
        """Train ten steps of the starter, or those after a checkpoint again."""
        settings = TrainSettings(
            dataset=str(DATA / "rows.json"),
            output_dir=str(self._demo.run_folder),
            device=self.device.kind,  # type: ignore[arg-type]
            per_device_train_batch_size=8,
            gradient_accumulation_steps=1,
            max_steps=STEPS,
            save_steps=_HALF,
            learning_rate=1e-3,
            warmup_steps=2,
            lora_rank=16,
            val_size=0,
            report=False,
            seed=7,
            resume_from_checkpoint=resume,
        )
        events = Finetune(prepare_run(settings)).run()
        return (event for event in events if isinstance(event, StepDone))


@contextmanager
def _own_home() -> Iterator[Path]:
    """Give this process a home that is removed again: runs register themselves there."""
    before = os.environ.get("DANLU_HOME")
    with scratch_folder() as folder:
        os.environ["DANLU_HOME"] = str(folder)
        try:
            yield folder
        finally:
            if before is None:
                del os.environ["DANLU_HOME"]
            else:
                os.environ["DANLU_HOME"] = before


def _broken(words: str) -> Check:
    return red(
        _("This does not work here: {words}").format(words=words),
        _("Report it with what this prints: danlu doctor --selftest --json"),
    )


def _operations(test: SelfTest) -> Iterator[Check]:
    place = test.device.torch_device
    for tried in examine_operations(place):
        yield replace(_operation(tried), name=tried.operation)
    for reason in ops_table(place).not_built:
        yield hint(reason)


def _operation(tried: Tried) -> Check:
    if tried.fault is not None:
        text = _("{variant} is switched off: {fault}")
        return hint(text.format(variant=tried.variant, fault=tried.fault))
    text = _("{variant}: right, {ms:.2f} ms; the readable one {twin} ms")
    twin = "-" if tried.twin_seconds is None else f"{1e3 * tried.twin_seconds:.2f}"
    found = text.format(variant=tried.variant, ms=1e3 * (tried.seconds or 0.0), twin=twin)
    return green(found if tried.is_taken else f"({found})")


def _training(test: SelfTest) -> Iterator[Check]:
    begun = time.perf_counter()
    steps = list(test.steps())
    seconds = time.perf_counter() - begun
    test._losses = [step.loss for step in steps]
    first, last = test._losses[0], test._losses[-1]
    if not all(map(math.isfinite, test._losses)) or last > 0.9 * first:
        yield _broken(
            _("the loss went from {first:.3f} to {last:.3f}").format(first=first, last=last)
        )
        return
    speed = sum(step.num_tokens for step in steps[2:]) / sum(step.seconds for step in steps[2:])
    text = _(
        "{count} steps in {seconds:.0f} s, loss {first:.3f} -> {last:.3f}, {speed:,.0f} tokens/s"
    )
    yield green(text.format(count=len(steps), seconds=seconds, first=first, last=last, speed=speed))


def _resuming(test: SelfTest) -> Iterator[Check]:
    again = [step.loss for step in test.steps(resume=f"checkpoint-{_HALF}")]
    errors = [
        abs(now - before) / before for now, before in zip(again, test._losses[_HALF:], strict=True)
    ]
    if not any(errors):
        yield green(
            _("steps {first} to {last} again: the same losses to the last bit").format(
                first=_HALF + 1, last=STEPS
            )
        )
        return
    text = _("steps {first} to {last} again: losses are off by up to {error:.1g}").format(
        first=_HALF + 1, last=STEPS, error=max(errors)
    )
    is_close = max(errors) <= _EQUAL and test.device.has_host
    yield green(text) if is_close else _broken(text)


def _integrity(test: SelfTest) -> Iterator[Check]:
    checkpoint = list_checkpoints(test._demo.run_folder)[-1].path
    names = verify(checkpoint)
    largest = max((checkpoint / name for name in names), key=lambda file: file.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    atomic_write(largest, bytes(damaged))
    try:
        verify(checkpoint)
    except DataError:
        yield green(
            _("{count} files of a checkpoint are whole; a changed bit is found").format(
                count=len(names)
            )
        )
    else:
        yield _broken(_("a changed bit in {file} was not found").format(file=largest.name))


def _answering(test: SelfTest) -> Iterator[Check]:
    name = str(test._demo.run_folder)
    settings = ModelSettings(adapter_name_or_path=name, device=test.device.kind)  # type: ignore[arg-type]
    assistant = open_assistant(settings)
    texts, speeds = [], []
    for _again in range(2):
        begun = time.perf_counter()
        events = list(ask(assistant, _QUESTION))
        seconds = time.perf_counter() - begun
        texts.append(assistant_message(events).content)
        used = next(event for event in events if isinstance(event, Usage))
        speeds.append(used.completion_tokens / seconds)
    if not texts[0] or texts[0] != texts[1]:
        yield _broken(_("the same question got the answers {texts}").format(texts=texts))
        return
    yield green(_("the same answer twice, {speed:,.0f} tokens/s").format(speed=max(speeds)))


def _published(test: SelfTest) -> Iterator[Check]:
    """What others have measured on such a card, to be seen beside; the starter is far smaller."""
    device = test.device
    if not device.has_host:
        return
    facts = facts_of(device.kind, device.description, device.memory_bytes)
    for figure in facts.published:
        yield hint(_("for comparison, not of the starter: {figure}").format(figure=figure))


_PARTS = (_operations, _training, _resuming, _answering, _integrity, _published)
