"""A text in the user's own editor: $VISUAL, $EDITOR, or the first that is installed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

from danlu.environment import users_environment
from danlu.errors import UsageError
from danlu.files.scratch import scratch_file
from danlu.language import _
from danlu.reasons import system_reason

_USUAL = ("nano", "vim", "vi")


def edited(text: str) -> str:
    """Return the text as the user left it. Raises UsageError where there is no editor."""
    words = editor_words()
    if not words:
        raise _no_editor(
            _("$EDITOR is not set, and none of {names} is installed.").format(
                names=", ".join(_USUAL)
            )
        )
    with scratch_file(text, suffix=".md") as path:
        try:
            done = subprocess.run([*words, str(path)], check=False, env=users_environment())
        except OSError as fault:
            raise _no_editor(f"{words[0]}: {system_reason(fault)}") from fault
        if done.returncode != 0:
            raise _no_editor(
                _("{name} ended with {code}.").format(name=words[0], code=done.returncode)
            )
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\n")


def editor_words() -> list[str]:
    """Return the words that start the editor; [] where there is none."""
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if chosen:
        return shlex.split(chosen)
    return next(([name] for name in _USUAL if shutil.which(name)), [])


def _no_editor(why: str) -> UsageError:
    return UsageError(_("The editor did not work."), why=why, fix="export EDITOR=nano")
