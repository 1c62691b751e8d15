"""What reaches the terminal. Models and files are untrusted: their control sequences never do."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from danlu.language import wrapped
from danlu.text.printable import printable as printable


def json_line(record: Mapping[str, Any]) -> str:
    """Write a record as one line of JSON; control characters stand there escaped, C1 too."""
    text = json.dumps(record, ensure_ascii=False)
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def say(*texts: str, to: TextIO | None = None, indent: str = "") -> None:
    """Print texts without control sequences; in a terminal their lines end between words.

    indent: before the lines into which a long one is broken, but the first.
    """
    stream = to or sys.stdout
    lines = printable("\n".join(texts)).split("\n")
    if stream.isatty():
        width = shutil.get_terminal_size().columns
        lines = [part for line in lines for part in wrapped(line, width, indent)]
    print("\n".join(lines), file=stream, flush=True)


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
