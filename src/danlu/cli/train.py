"""`danlu train`: fine-tune, with a live bar in a terminal and plain lines elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from danlu.cli.terminal.several_devices import follow, train_on_each, wanted_devices
from danlu.cli.terminal.signals import ended_by_signals
from danlu.device.launcher import Place, end_with_launcher
from danlu.errors import EXIT_OK, DanluError
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.reasons import reason_of
from danlu.runs.checkpoints import FINAL
from danlu.say import say, say_stopped
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.train.job.setup import PreparedRun


def run(argv: Sequence[str]) -> int:
    """Train as the settings say; 130 when interrupted, after the last step has been saved."""
    from danlu.train.settings import TrainSettings

    place = Place.own()
    if place.is_launched:
        end_with_launcher()
    if not place.is_lead:
        return follow(argv)
    resolved = read_settings(TrainSettings, "train", argv)
    num_devices = wanted_devices(resolved.values)
    if num_devices is not None:
        return train_on_each(argv, resolved.values, num_devices)
    until_it_trains = ended_by_signals(is_launched=place.is_launched)
    with until_it_trains, MovingLine(_("Reading the data and the model")):
        from danlu.cli.terminal.progress import show_training
        from danlu.hub.adapters import with_named_model
        from danlu.train.job.finetune import Finetune
        from danlu.train.job.setup import prepare_run
        from danlu.train.loop.trainer import Interrupted

        settings = with_named_model(resolved.values, resolved.origins)
        job = Finetune(prepare_run(settings, resolved.origins))
    try:
        show_training(job)
    except Interrupted:
        text = _("Stopped; the last completed step is saved. Go on with: {command}")
        return say_stopped(text.format(command=shlex.join(["danlu", "train", *_going_on(argv)])))
    if job.prepared.settings.report:
        _report(job.prepared)
    else:
        _say_if_little_was_learned(job.prepared)
    _say_what_next(job.prepared)
    return EXIT_OK


def _going_on(argv: Sequence[str]) -> list[str]:
    """Write the same words so that they go on with the run instead of refusing its folder."""
    words = list(argv)
    if words[-2:-1] == ["--resume_from_checkpoint"]:  # it went on already
        del words[-2:]
    return [*words, "--resume_from_checkpoint", "true"]


def _report(run: PreparedRun) -> None:
    """Write the before/after report; the run is finished and stays so whatever happens here."""
    from danlu.cli.eval import show_report
    from danlu.dialog.settings import ModelSettings
    from danlu.train.settings import REPORT_SECONDS

    named = {"device": run.settings.device, "dtype": run.precision.name}
    settings = ModelSettings.model_validate(named)
    again = f"danlu eval {shlex.quote(run.settings.output_dir)}"
    try:
        show_report(run.path, settings, limit_s=REPORT_SECONDS)
    except KeyboardInterrupt:
        say(_("The report is left out; write it later: {command}").format(command=again))
    except Exception as problem:
        what, why = reason_of(problem), ""
        if isinstance(problem, DanluError):
            what, why = problem.what, problem.why
        say(_("The report could not be written: {what}").format(what=what))
        say(_("{why} Try again: {command}").format(why=why, command=again).lstrip())


def _say_if_little_was_learned(run: PreparedRun) -> None:
    from danlu.runs.metrics import read_metrics
    from danlu.workflows.report.verdict import little_learned

    for line in little_learned(read_metrics(run.path)):
        say(line)


def _say_what_next(run: PreparedRun) -> None:
    say(_("Done: {path}").format(path=run.path))
    if run.settings.plot_loss:
        say(_("Loss curve, in this folder: {file}").format(file="loss.png"))
    path = shlex.quote(str(run.path))
    if run.settings.finetuning_type == "lora":
        say(_("Chat with it: danlu chat --adapter {path}").format(path=path))
    else:
        path = shlex.quote(str(run.path / FINAL))
        say(_("Chat with it: danlu chat --model {path}").format(path=path))
