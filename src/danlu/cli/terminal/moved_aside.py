"""How the run that a new one replaces is announced: where it is now, and how it would go on."""

from __future__ import annotations

import shlex

from danlu.language import _
from danlu.runs.registry import shown_state
from danlu.runs.resuming import resume_command
from danlu.train.events import Replaced


def replaced_lines(event: Replaced) -> list[str]:
    """Say what was moved to the trash, and how to go on with it instead."""
    lines = [_("What was in the output folder is now in {path}").format(path=event.moved_to)]
    if event.state:
        total = "?" if event.total_steps is None else event.total_steps
        lines.append(
            _("It was a run: {state}, step {step} of {total}, checkpoints: {count}.").format(
                state=shown_state(event.state),
                step=event.step,
                total=total,
                count=event.num_checkpoints,
            )
        )
    if event.run and event.num_checkpoints and event.state != "finished":
        back = event.moved_to.parent.parent / event.moved_to.name
        command = (
            f"{shlex.join(['mv', str(event.moved_to), str(back)])} && "
            f"{resume_command(back, event.run)}"
        )
        lines.append(
            _("To go on with it instead, press Ctrl-C, then: {command}").format(command=command)
        )
    lines.append(_("danlu runs trash lists what was moved aside; with --empty it is removed."))
    return lines
