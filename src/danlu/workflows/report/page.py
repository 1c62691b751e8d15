"""A page of plain parts, written as HTML and as Markdown: one content, two forms.

Every text in a part is untrusted. Must not know what the page is about.
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
class Picture:
    """A drawing of curves, with the words around it.

    svg: our own markup, the one thing on a page that is not escaped. file: the same picture beside
    the page. legend: the name of each curve with its colour in the drawing.
    """

    svg: str
    file: str
    x_label: str
    y_label: str
    legend: Sequence[tuple[str, str]]


Part = Heading | Paragraph | Table | SideBySide | Picture


@dataclass(frozen=True, kw_only=True)
class Page:
    """A title, a line under it, and parts."""

    title: str
    subtitle: str
    parts: Sequence[Part]


def shown(text: str) -> str:
    """Return text that every file can hold: no control characters, no halves of characters."""
    return printable(text.encode("utf-8", "backslashreplace").decode("utf-8"))
