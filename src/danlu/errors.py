"""What can go wrong, sorted by who must act.

DanluError
├── UsageError        the user: unknown option, missing folder, folder in use     exit 2
├── EnvironmentFault  the machine: permissions, drivers, network                  exit 3
├── CapacityError     more disk or memory is needed                               exit 4
├── DataError         the files: bad rows, corrupt or mismatched files, divergence exit 5
└── (anything else is a bug of ours)                                              exit 1

Without an error it is 0; 130 where the user has stopped it, 141 where nobody reads its output.
Every error says what happened, why, and the command or edit that fixes it: three lines in the
terminal. `ValueError` and `assert` are for programming mistakes and never reach a user on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

from danlu.program import as_typed

EXIT_OK = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 130
# What a shell says of a program that ended because nobody reads its output: 128 + SIGPIPE.
EXIT_UNREAD = 141


class Shown(Exception):
    """What --help or --print_settings asked for has been printed: the command is done."""


class DanluError(Exception):
    """A problem that a person can understand and fix.

    what: what happened, one sentence. why: the reason or the detail that proves it, a line or
    several. fix: the command or the edit that solves it. Newlines inside a line become spaces: an
    error quotes files, which cannot begin a line of it.
    """

    exit_code = EXIT_BUG

    def __init__(self, what: str, *, why: str | Sequence[str], fix: str) -> None:
        super().__init__(what)
        self.what = _line(what)
        self.why = _line(why) if isinstance(why, str) else "\n".join(map(_line, why))
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.why}\n{as_typed(self.fix)}"


def _line(text: str) -> str:
    return " ".join(filter(None, text.splitlines()))


class UsageError(DanluError):
    """The command asks for something that does not exist or cannot be done."""

    exit_code = 2


class AmbiguousName(UsageError):
    """A name means several things. choices: what can be typed in its place, each meaning one."""

    def __init__(self, what: str, *, name: str, choices: Sequence[str], why: str, fix: str) -> None:
        super().__init__(what, why=why, fix=fix)
        self.name = name
        self.choices = tuple(choices)


class EnvironmentFault(DanluError):
    """The machine refuses: permissions, drivers, network."""

    exit_code = 3


class CapacityError(DanluError):
    """Disk or memory does not suffice."""

    exit_code = 4


class DataError(DanluError):
    """Files or rows are damaged, do not match, or training diverged on them."""

    exit_code = 5
