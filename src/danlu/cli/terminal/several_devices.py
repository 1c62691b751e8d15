"""`danlu train` on several devices: started once for each; all but the first one say nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.cli.terminal.signals import ended_by_signals
from danlu.container import num_processors
from danlu.device.launcher import Ended, Nodes, Place, processes_wanted, run_on_each
from danlu.errors import EXIT_INTERRUPTED, EXIT_OK, DanluError, EnvironmentFault, UsageError
from danlu.language import _
from danlu.runs.checkpoints import list_checkpoints
from danlu.say import say
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.train.settings import TrainSettings

# Values of LLaMA-Factory's FORCE_TORCHRUN.
_YES = ("1", "true", "yes", "y", "on")
_NO = ("", "0", "false", "no", "n", "off")


def wanted_devices(settings: TrainSettings) -> int | None:
    """Return on how many devices of this machine to start; None to train in this process.

    Raises UsageError where they are not there.
    """
    place, count = Place.own(), settings.num_devices
    if place.is_launched:
        if count not in (1, place.local_size):
            raise _other_number(count, place.local_size)
        return None
    if not (_is_forced() or count > 1 or Nodes.of().count > 1):
        return None
    from danlu.device.detect import num_devices

    here = num_devices(settings.device)
    if count == 1:
        count = processes_wanted(here or 1)
    most = num_processors() if here is None else here
    if count > most:
        why = _("This process may use {here}.")
        if here is None:
            why = _("On the CPU each takes a processor; this process may use {here}.")
        raise UsageError(
            _("There are fewer devices than the {count} that are to train.").format(count=count),
            why=why.format(here=most),
            fix=f"--num_devices {most}",
        )
    return None if count == 1 and Nodes.of().count == 1 else count


def _is_forced() -> bool:
    given = os.environ.get("FORCE_TORCHRUN", "")
    if given.lower() in (*_YES, *_NO):
        return given.lower() in _YES
    raise UsageError(
        _("The variable FORCE_TORCHRUN is neither 1 nor 0."),
        why=_("The environment has {found}.").format(found=f"FORCE_TORCHRUN={given}"),
        fix="unset FORCE_TORCHRUN",
    )


def _other_number(wanted: int, started: int) -> UsageError:
    return UsageError(
        _("--num_devices {count} is not what the launcher has started.").format(count=wanted),
        why=_("There are {found} processes on this machine.").format(found=started),
        fix=_("Leave out --num_devices"),
    )


def train_on_each(argv: Sequence[str], settings: TrainSettings, num_devices: int) -> int:
    """Start the same command on each device; return the exit code of the one that failed first.

    Raises EnvironmentFault for a process that was killed: it could not say anything itself.
    """
    nodes = Nodes.of()
    if nodes.count > 1:
        text = _("Machine {number} of {count}; the first one is {address}, port {port}.")
        say(
            text.format(
                number=nodes.rank + 1, count=nodes.count, address=nodes.address, port=nodes.port
            )
        )
    ended = run_on_each(["train", *argv], num_devices=num_devices, nodes=nodes)
    if ended.signal:
        raise _killed(ended, Path(settings.output_dir).expanduser())
    return ended.code


def _killed(ended: Ended, run: Path) -> EnvironmentFault:
    why = _("It could not say why. Linux ends processes so when the memory is full; see dmesg.")
    if ended.signal_name != "SIGKILL":
        why = _("It could not say why; what a library has printed stands above.")
    fix = _("Start again with --overwrite_output_dir")
    checkpoints = list_checkpoints(run) if run.is_dir() else []
    if checkpoints:
        fix = _(
            "The same command with --resume_from_checkpoint true goes on from {checkpoint}."
        ).format(checkpoint=checkpoints[-1].path.name)
    return EnvironmentFault(
        _("Process {rank} was ended by {signal}, and the training with it.").format(
            rank=ended.rank, signal=ended.signal_name
        ),
        why=why,
        fix=fix,
    )


def follow(argv: Sequence[str]) -> int:
    """Compute this process's share of a run that another one leads; say only what fails here."""
    try:
        with ended_by_signals(is_launched=True):
            return _share_of(argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # the lead says it for all


def _share_of(argv: Sequence[str]) -> int:
    from danlu.cli.terminal.progress import stopped_by_signals
    from danlu.device.group import GroupBroken
    from danlu.hub.adapters import with_named_model
    from danlu.train.job.following import Following
    from danlu.train.job.setup import prepare_run
    from danlu.train.loop.trainer import Interrupted
    from danlu.train.settings import TrainSettings

    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            resolved = read_settings(TrainSettings, "train", argv)
            settings = with_named_model(resolved.values, resolved.origins)
            job = Following(prepare_run(settings, resolved.origins))
            with stopped_by_signals(job.request_stop):
                job.run()
    except Interrupted:
        return EXIT_INTERRUPTED
    except GroupBroken as fault:
        return fault.exit_code
    except DanluError:
        place = Place.own()
        say(_("Process {rank} of {count}:").format(rank=place.rank, count=place.size))
        raise
    return EXIT_OK
