"""A conversation outlives what went wrong with an answer: it is written to a file first."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from danlu.dialog.session import Session
from danlu.errors import CapacityError, DanluError
from danlu.files.atomic import atomic_write, make_folder
from danlu.files.home import danlu_home
from danlu.language import _


def rescued(session: Session) -> Path | None:
    """Write all branches into this folder, else into DANLU_HOME; None where there are none.

    Raises what writing raises.
    """
    if not session.turns:
        return None
    text = json.dumps(session.record(), ensure_ascii=False, indent=1) + "\n"
    name = f"chat-{datetime.now():%Y%m%d-%H%M%S}.json"
    path = Path(name).absolute()
    try:
        atomic_write(path, text)
    except DanluError:
        path = danlu_home() / name
        make_folder(path.parent)
        atomic_write(path, text)
    return path


def out_of_memory(fault: Exception, kept: Path | None) -> CapacityError | None:
    """Say that the memory ran out and where the conversation is; None for another fault."""
    from danlu.device.memory import is_out_of_memory

    if not is_out_of_memory(fault):
        return None
    fix = _("/new begins a shorter conversation.")
    if kept is not None:
        fix += " " + _("This conversation is kept: /load {path}").format(path=kept)
    return CapacityError(
        _("The memory ran out."),
        why=str(fault).strip().partition("\n")[0] or type(fault).__name__,
        fix=fix,
    )
