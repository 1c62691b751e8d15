"""A page of plain blocks, written as HTML and as Markdown: one content, two forms.

Every text in a block is untrusted. Must not know what the page is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.text.printable import printable


@dataclass(frozen=True, kw_only=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A few sentences; `is_warning` makes them stand out."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells under column heads; the first column names its row, others may hold numbers."""

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer: its reasoning apart, its text, and a remark, which may be praise."""

    thought: str
    text: str
    remark: str = ""
    is_praise: bool = False


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """One prompt with the answers of several models side by side, each under its head."""

    place: str
    prompt: str
    answers: Sequence[tuple[str, Said]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart: points of rising x. marks: draw a dot at each point."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    marks: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over a common axis. picture: a file beside the page that shows the same."""

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    picture: str


Block = Heading | Paragraph | Table | SideBySide | Chart


@dataclass(frozen=True, kw_only=True)
class Page:
    """A title, a line under it, and blocks. language: a BCP 47 tag."""

    title: str
    subtitle: str
    language: str
    blocks: Sequence[Block]


def shown(text: str) -> str:
    """Return text that every file can hold: no control characters, no halves of characters."""
    return printable(text.encode("utf-8", "backslashreplace").decode("utf-8"))
