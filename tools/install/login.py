"""The banner at each login: two lines in the shell's own file, only when they are asked for."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

_MARK = "# danlu shows the machine at each login; without these two lines it does not."


def login_file() -> Path:
    """Return the file that the user's shell reads in each new terminal."""
    name = ".zshrc" if Path(os.environ.get("SHELL", "")).name == "zsh" else ".bashrc"
    return Path.home() / name


def show_at_login(danlu: Path, file: Path) -> bool:
    """Add the banner to a shell's file; return whether that changed it.

    The lines of another installation are replaced. The file may be a link: it is written in place.
    """
    command = f"case $- in *i*) {shlex.quote(str(danlu))} info --banner ;; esac"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    changed = list(lines)
    if _MARK in lines:
        at = lines.index(_MARK)
        changed[at : at + 2] = [_MARK, command]
    else:
        changed += [_MARK, command]
    if changed == lines:
        return False
    file.write_text("\n".join(changed) + "\n", encoding="utf-8")
    return True
