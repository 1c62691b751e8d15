"""What reaches the terminal. Models and files are untrusted: their control sequences never do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from danlu.text.printable import printable


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
