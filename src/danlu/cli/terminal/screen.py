"""What reaches the terminal. Models and files are untrusted: their control sequences never do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from danlu.dialog.events import Call, End, Event, Text, Thought, Usage
from danlu.language import _
from danlu.text.printable import printable as printable
from danlu.text.render import call_text

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def json_line(record: Mapping[str, Any]) -> str:
    """Write a record as one line of JSON; control characters stand there escaped, C1 too."""
    text = json.dumps(record, ensure_ascii=False)
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print rows of cells under their heads."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Cell

    table = Table(box=box.SIMPLE_HEAD)
    for head in heads:
        # Chinese has no spaces to wrap at: fold, never cut.
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Cell(printable(cell)) for cell in row))
    Console(highlight=False).print(table)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal that something goes on, until it ends; elsewhere print nothing."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False).status(what):
        yield


def show_answer(events: Iterator[Event]) -> list[Event]:
    """Stream an answer to standard output, thoughts dimmed; return all its events.

    Ctrl-C stops the answer: what came so far is returned. An answer that was cut is called so.
    """
    colours = sys.stdout.isatty()
    seen: list[Event] = []
    in_thought = False
    try:
        for event in events:
            seen.append(event)
            if isinstance(event, Thought) and not in_thought:
                in_thought = True
                _write(_DIM if colours else "<think>\n")
            if isinstance(event, Text | Call) and in_thought:
                in_thought = False
                _write(f"{_PLAIN}\n\n" if colours else "\n</think>\n\n")
            if isinstance(event, Thought | Text):
                _write(printable(event.text))
            elif isinstance(event, Call):
                _write(printable(call_text(event.call)) + "\n")
    except KeyboardInterrupt:
        pass
    finally:
        _write(_PLAIN if colours and in_thought else "")
        _write("\n")
    say_if_cut(seen)
    return seen


def say_if_cut(events: Iterable[Event]) -> None:
    """Say on standard error, apart from the answer, that it was cut and how to get all of it."""
    counts = {type(event): event for event in events}
    end, usage = counts.get(End), counts.get(Usage)
    if isinstance(end, End) and isinstance(usage, Usage) and end.reason == "length":
        text = _(
            "The answer was cut after {count} tokens; --max_new_tokens {more} allows more, as far "
            "as the context goes."
        )
        count = usage.completion_tokens
        print(text.format(count=count, more=2 * count), file=sys.stderr)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
