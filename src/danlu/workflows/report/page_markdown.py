"""A page as Markdown, readable as it stands in a terminal and rendered in a repository.

What models and files say stands in code fences and escaped cells, so it cannot become markup.
"""

from __future__ import annotations

import re

from danlu.workflows.report.page import (
    Heading,
    Page,
    Paragraph,
    Part,
    Picture,
    SideBySide,
    Table,
    shown,
)

_MARKUP = re.compile(r"([\\`*\[\]<|])")
_TICKS = re.compile(r"`+")


def to_markdown(page: Page) -> str:
    """Write a page as GitHub's Markdown."""
    parts = [f"# {_inline(page.title)}", _line(page.subtitle), *map(_part, page.parts)]
    return "\n\n".join(parts) + "\n"


def _part(part: Part) -> str:
    if isinstance(part, Heading):
        return f"## {_inline(part.text)}"
    if isinstance(part, Paragraph):
        return f"> **{_inline(part.text)}**" if part.is_warning else _line(part.text)
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Picture):
        return f"![{_inline(part.y_label)}]({part.file})"
    return _side_by_side(part)


def _table(table: Table) -> str:
    ruler = tuple("---" for _head in table.heads)
    lines = [tuple(map(_inline, cells)) for cells in (table.heads, *table.rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], ruler, *lines[1:]))


def _side_by_side(part: SideBySide) -> str:
    parts = [f"### {_inline(part.place)}", _fenced(part.prompt)]
    for head, said in part.answers:
        remark = f" ({_inline(said.remark)})" if said.remark else ""
        thought = f"<think>\n{said.thought}\n</think>\n" if said.thought else ""
        parts += [f"**{_inline(head)}**{remark}", _fenced(thought + said.text)]
    return "\n\n".join(parts)


def _line(text: str) -> str:
    """Escape text that begins a line: it is neither a heading nor an item of a list."""
    return re.sub(r"^([#+-])", r"\\\1", _inline(text))


def _inline(text: str) -> str:
    """Escape text for a line or a cell."""
    return _MARKUP.sub(r"\\\1", " ".join(shown(text).split()))


def _fenced(text: str) -> str:
    """Put text between fences longer than any run of backticks in it."""
    longest = max((len(found) for found in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown(text)}\n{fence}"
