"""What can go wrong, sorted by who must act.

DanluError
├── UsageError        the user: unknown option, missing folder, folder in use     exit 2
├── EnvironmentFault  the machine: permissions, drivers, network                  exit 3
├── CapacityError     more disk or memory is needed                               exit 4
├── DataError         the files: bad rows, corrupt or mismatched files, divergence exit 5
└── (anything else is a bug of ours)                                              exit 1

Every error says what happened, why, and the command or edit that fixes it: three lines in the
terminal. `ValueError` and `assert` are for programming mistakes and never reach a user on purpose.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 130


class DanluError(Exception):
    """A problem that a person can understand and fix.

    what: what happened, one sentence. why: the reason or the detail that proves it.
    fix: the command or the edit that solves it.
    """

    exit_code = EXIT_BUG

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.why}\n{self.fix}"


class UsageError(DanluError):
    """The command asks for something that does not exist or cannot be done."""

    exit_code = 2


class EnvironmentFault(DanluError):
    """The machine refuses: permissions, drivers, network."""

    exit_code = 3


class CapacityError(DanluError):
    """Disk or memory does not suffice."""

    exit_code = 4


class DataError(DanluError):
    """Files or rows are damaged, do not match, or training diverged on them."""

    exit_code = 5
