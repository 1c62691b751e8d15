"""What is said to the user and stays: sentences of ours, on standard output or error.

Names and texts of files come into them, so control sequences never reach the terminal; commands in
them can be typed as they stand.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from typing import TextIO

from danlu.errors import EXIT_INTERRUPTED
from danlu.language import wrapped
from danlu.program import as_typed
from danlu.text.printable import printable


def say(*texts: str, to: TextIO | None = None, indent: str = "") -> None:
    """Print texts without control sequences, their commands as they can be typed here.

    In a terminal lines end between words.
    indent: before the lines into which a long one is broken, but the first.
    """
    stream = to or sys.stdout
    lines = printable(as_typed("\n".join(texts))).split("\n")
    if stream.isatty():
        width = shutil.get_terminal_size().columns
        lines = [part for line in lines for part in wrapped(line, width, indent)]
    print("\n".join(lines), file=stream, flush=True)


def say_stopped(text: str) -> int:
    """Say on standard error how work that was stopped goes on; return the exit code for it.

    There it is seen where standard output is a file, or a program that ended at the same Ctrl-C.
    """
    with suppress(OSError):  # a window that was closed
        say(text, to=sys.stderr)
    return EXIT_INTERRUPTED
