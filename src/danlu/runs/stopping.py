"""Stopping a run that goes on: its process is asked to save the last completed step and to end."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

from danlu.errors import EnvironmentFault, UsageError
from danlu.language import _
from danlu.runs.registry import shown_state, status_of


def ask_to_stop(folder: Path) -> int:
    """Ask a run's process to save and end, and return its number; does not wait for it.

    Raises UsageError where the run is not going on, EnvironmentFault where its process is out of
    reach.
    """
    status = status_of(folder)
    pid = status.pid
    if pid is None and status.is_held:
        raise EnvironmentFault(
            _("The run {path} cannot be stopped.").format(path=folder),
            why=_("Its process is on another machine or in another container."),
            fix=_("Stop it there: danlu runs stop {path}").format(path=shlex.quote(str(folder))),
        )
    if pid is None:
        raise UsageError(
            _("The run {path} is not going on.").format(path=folder),
            why=_("Its state is {state}.").format(state=shown_state(status.state)),
            fix=f"danlu runs show {shlex.quote(str(folder))}",
        )
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as fault:
        raise EnvironmentFault(
            _("The run {path} cannot be stopped.").format(path=folder),
            why=_("Process {pid} belongs to another user.").format(pid=pid),
            fix=_("Stop it as that user, or with sudo."),
        ) from fault
    except ProcessLookupError:
        pass  # it ended by itself just now
    return pid
