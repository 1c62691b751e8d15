"""A part of the check, and what it reports to: a JSON file that is whole at every moment.

Standard library only, so that a machine without danlu's dependencies can still say what it lacks.
"""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

_WIDTH = 100
# A figure of a part that wants to be run again: what DANLU_OPS has to say then.
WITHOUT = "without"


class OutOfTime(BaseException):
    """A part's time is over. Not an Exception: nothing that a part calls may swallow it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part. run: its module and function. needs: modules without which it cannot run.

    seconds: its share of the time.
    """

    name: str
    run: str
    needs: tuple[str, ...]
    seconds: float


@dataclass(kw_only=True)
class Report:
    """What was found, by part; rows: the lines of the table, as (part, what, found)."""

    file: Path
    found: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    part: str = ""
    ends: float = 0.0

    @classmethod
    def read(cls, file: Path) -> Report:
        """Read what was written so far, by another process."""
        found = json.loads(file.read_text(encoding="utf-8"))
        return cls(file=file, rows=[tuple(row) for row in found.pop("table")], found=found)

    def put(self, name: str, value: Any, words: str | None = None) -> None:
        """Keep a figure of the running part, and write all; words: as the table has it."""
        self.found.setdefault("parts", {}).setdefault(self.part, {})[name] = value
        if words is not None:
            # A figure that is bettered keeps its line.
            self.rows = [row for row in self.rows if row[:2] != (self.part, name)]
            self.rows.append((self.part, name, words))
            print(_line(f"{self.part}: {name}: ", words), flush=True)
        self.write()

    def left(self) -> float:
        """Return the seconds that the running part has left."""
        return self.ends - time.monotonic()

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Let a failure inside cost this figure only: it is kept with its traceback."""
        try:
            yield
        except Exception as problem:
            first = (str(problem).splitlines() or [""])[0][:160]
            words = f"FAILED: {type(problem).__name__}: {first}"
            self.put(name, {"failed": traceback.format_exc()}, words)

    def write(self) -> None:
        """Write everything found so far; the file is replaced at once."""
        draft = self.file.with_suffix(".part")
        content = {**self.found, "table": self.rows}
        draft.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
        os.replace(draft, self.file)

    def table(self) -> str:
        """Return the figures below the name of their part, as wide as a terminal."""
        width = max((len(row[1]) for row in self.rows), default=0)
        lines: list[str] = []
        for part in dict.fromkeys(row[0] for row in self.rows):
            lines.append(part)
            lines += [
                _line(f"  {what:{width}}  ", words) for of, what, words in self.rows if of == part
            ]
        return "\n".join(lines)


def _line(before: str, words: str) -> str:
    """Join both, in as many lines as it takes; a list without spaces is broken, too."""
    return textwrap.fill(
        words.replace(",", ", ").replace(",  ", ", ") if " " not in words else words,
        _WIDTH,
        initial_indent=before,
        subsequent_indent=" " * min(len(before), _WIDTH // 2),
    )


def run_part(
    name: str, work: Callable[[Any, Report], None], setting: Any, report: Report, seconds: float
) -> None:
    """Run one part within its time; whatever ends it is written down."""
    report.part, report.ends = name, time.monotonic() + seconds
    begun = time.monotonic()

    def over(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
    try:
        with report.trying("part"):
            work(setting, report)
    except OutOfTime:
        report.put("time", seconds, f"ended after its {seconds:.0f} s, not finished")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    report.put("seconds", round(time.monotonic() - begun, 1))
