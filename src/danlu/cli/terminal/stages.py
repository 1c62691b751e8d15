"""What a command does at the moment: a moving line in a terminal, elsewhere a line a stage.

The moving line is on standard error; the lines are on standard output, as a run's are, so that
standard error holds nothing but errors.
"""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

# Without a terminal a line is printed for every stage, and within one every tenth.
_LINES_OF_A_STAGE = 10


class Stages:
    """Shows stages of work as `show(what, done, total)` is told of them; bytes, 0 of 0 unknown.

    In a terminal a spinner and a clock move whatever happens, and a bar where the total is known.
    is_quiet: no lines where standard output is for a program.
    """

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet
        self._what = ""
        self._tenth = -1
        self._live: Progress | None = None
        if sys.stderr.isatty():
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                DownloadColumn(binary_units=True),
                Elapsed(),
                console=Console(stderr=True, highlight=False),
                transient=True,
            )
            self._task = self._live.add_task("", total=None)

    def __enter__(self) -> Stages:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Show a stage, and how far it is."""
        if self._live is not None:
            self._live.update(
                self._task, description=what, completed=done, total=total or None, refresh=True
            )
            return
        if self._is_quiet:
            return
        tenth = _LINES_OF_A_STAGE * done // total if total else 0
        if what != self._what:
            print(f"{what} ...", flush=True)
        elif tenth > self._tenth:
            print(f"{what} {tenth * 100 // _LINES_OF_A_STAGE}%", flush=True)
        self._what, self._tenth = what, tenth
