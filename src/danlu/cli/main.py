"""The program `danlu`: finds the command, runs it, turns errors into three lines and an exit code.

Loads nothing but the command that was asked for, so `danlu --help` answers at once.
"""

from __future__ import annotations

import atexit
import difflib
import errno
import importlib
import io
import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from danlu import __version__
from danlu.cli.terminal.signals import end_at_once, speaks
from danlu.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNREAD,
    AmbiguousName,
    CapacityError,
    DanluError,
    Shown,
    UsageError,
)
from danlu.files.os_errors import impossible_name
from danlu.interrupts import end_at_ctrl_c, end_while_importing
from danlu.language import _, wrapped
from danlu.program import COMMANDS
from danlu.reasons import as_sentence, library_reason, reason_of
from danlu.say import say

_FOLDERS = {
    **dict.fromkeys(("models", "pull", "use", "rm"), "models"),
    **dict.fromkeys(("info", "doctor"), "machine"),
    **dict.fromkeys(("bundle", "scripts"), "installing"),
}


def module_of(command: str) -> str:
    """Name the module of a command; some stand together in a folder."""
    return ".".join(filter(None, ("danlu.cli", _FOLDERS.get(command), command)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are written to stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    # A prompt in GBK, a file name that is no text, or a terminal that cannot show Chinese must not
    # crash us. A prompt is refused later, where it would become tokens.
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    debug = _take_debug(words)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) has gone. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNREAD
    except (Exception, KeyboardInterrupt) as fault:
        if debug:
            traceback.print_exc()
        text, code = _ending(fault)
        if code != EXIT_INTERRUPTED or speaks():
            with suppress(OSError):  # nobody may be left to read it
                say(text, to=sys.stderr)
        return code


class _Nowhere(io.TextIOBase):
    """A stream that takes everything and gives nothing."""

    def write(self, text: str) -> int:
        return len(text)


def _open_streams() -> None:
    """Put nothing in the place of streams that whoever started us has closed."""
    for name, stream in (("stdin", io.StringIO()), ("stdout", _Nowhere()), ("stderr", _Nowhere())):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # else the next file gets its number, and what C prints
            setattr(sys, name, stream)


def _dispatch(words: list[str]) -> int:
    """Run a command; where a name in it means several things, ask which is meant."""
    while True:
        try:
            return _run(words)
        except AmbiguousName as fault:
            words = _with_choice(words, fault)


def _with_choice(words: list[str], fault: AmbiguousName) -> list[str]:
    """Let the user choose; raise the error where nobody can be asked, or nothing is chosen."""
    # It may stand alone, as NAME=PATH, with a factor, or in a list.
    meant = re.compile(rf"(?<![^=,]){re.escape(fault.name)}(?![^=,])")
    if not (sys.stdin.isatty() and sys.stderr.isatty() and any(map(meant.search, words))):
        raise fault
    say(fault.what, to=sys.stderr)
    for number, choice in enumerate(fault.choices, 1):
        say(f"  {number}  {choice}", to=sys.stderr)
    try:
        answer = input(_("Which is meant? Number: "))
        chosen = fault.choices[range(1, len(fault.choices) + 1).index(int(answer))]
    except (ValueError, EOFError):
        raise fault from None
    return [meant.sub(lambda _found: chosen, word) for word in words]


def _run(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(help_text())
        return EXIT_OK
    if words[0] in ("--version", "version"):
        say(f"danlu {__version__}")
        return EXIT_OK
    name = words[0]
    if name not in COMMANDS:
        raise _unknown(name)
    try:
        code: int = importlib.import_module(module_of(name)).run(words[1:])
    except Shown:
        return EXIT_OK
    return code


def help_text() -> str:
    """Write the overview of all commands."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    title = _("danlu {version}: fine-tune and serve Qwen3 on one machine").format(
        version=__version__
    )
    usage = _("usage: danlu COMMAND [FILE.yaml] [--key value ...]")
    end = _("danlu COMMAND --help shows its settings. --debug adds the traceback to an error.")
    lines = [*wrapped(title, width), "", *wrapped(usage, width, " " * 4), ""]
    for name, text in COMMANDS.items():
        lines += wrapped(f"  {name:<10}{_(text)}", width, " " * 10)
    return "\n".join([*lines, "", *wrapped(end, width)])


def _take_debug(words: list[str]) -> bool:
    flags = words[: words.index("--")] if "--" in words else words
    found = "--debug" in flags
    if found:
        words.remove("--debug")
    return found


def _unknown(name: str) -> UsageError:
    near = [] if name.startswith("-") else difflib.get_close_matches(name, COMMANDS, 1, 0.5)
    return UsageError(
        _("There is no command {name}.").format(name=name),
        why=_("The commands are: {names}.").format(names=", ".join(COMMANDS)),
        fix=_("Did you mean danlu {name}?").format(name=near[0]) if near else _("See danlu --help"),
    )


def _ending(fault: BaseException) -> tuple[str, int]:
    """Return what to say about an error, and the exit code."""
    told = impossible_name(fault) or fault
    if isinstance(told, DanluError):
        return str(told), told.exit_code
    if isinstance(fault, KeyboardInterrupt):
        return _("interrupted"), EXIT_INTERRUPTED
    if isinstance(fault, Exception) and _is_out_of_memory(fault):
        full = CapacityError(
            _("The memory ran out."),
            why=as_sentence(reason_of(fault)),
            fix=_(
                "End other programs, or take a smaller model, shorter texts, --quantization int8"
            ),
        )
        return str(full), full.exit_code
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        # Files of ours say which one it was; this is where standard output goes.
        output = CapacityError(
            _("No space left on the disk to write the output."),
            why=as_sentence(reason_of(fault)),
            fix=_("Free some space, and run the command again."),
        )
        return str(output), output.exit_code
    lines = (
        _("danlu made a mistake: {kind}").format(kind=type(fault).__name__),
        library_reason(str(fault).strip()) or _("No further detail."),
        _("Run the command again with --debug and report what it prints."),
    )
    return "\n".join(lines), EXIT_BUG


def _is_out_of_memory(fault: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(fault, MemoryError)
    from danlu.device.memory import is_out_of_memory

    return is_out_of_memory(fault)


def program() -> NoReturn:
    """Be the program of this process: end it with the exit code of the command it was given."""
    codes: list[int] = []
    atexit.register(_end_now, codes)  # the first to be registered is the last to be called
    end_while_importing(end_at_once)
    code = main()
    codes.append(code)
    if code and "LOCAL_RANK" in os.environ:
        # The others of a training learn of its end as the system closes its connections: not before
        # the launcher can see it, which reports the first one that ended.
        _end_now(codes)
    end_at_ctrl_c(code)  # nothing of ours is left to do
    sys.exit(code)


def _end_now(codes: Sequence[int]) -> None:
    """End this process before Python does: it ends threads inside torch, which is an abort."""
    for code in codes:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    program()
