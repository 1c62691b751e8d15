"""Markdown as a terminal shows it, and where a growing text may be cut to show a part for good.

What a model writes is hostile: control characters are dropped, links are shown as text and made no
link of the terminal, HTML is shown as it stands. Line breaks stay where the model put them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.text import Text as Styled

from danlu.text.printable import printable

_FENCE = re.compile(r" {0,3}(```|~~~)")


class _LeftHeading(Heading):
    """A heading at the left edge; Rich would put it into the middle."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Styled.assemble(self.text, style="bold")


class AnswerMarkdown(Markdown):
    """A model's text as Markdown."""

    elements = {**Markdown.elements, "heading_open": _LeftHeading}  # noqa: RUF012  Rich's own way

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        parser = MarkdownIt("commonmark", {"html": False})
        parser.enable(["strikethrough", "table"])
        self.parsed = parser.parse(printable(text))
        for token in _every(self.parsed):
            token.content = printable(token.content)  # &#x202e; becomes a character in parsing
            if token.type == "softbreak":
                token.type = "hardbreak"


def _every(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _every(token.children or [])


def split_finished(text: str) -> tuple[str, str]:
    """Cut a growing text behind the last block that nothing to come can change.

    That is before a line that begins at the left edge behind an empty one, outside a code block.
    """
    place = cut = 0
    fence = ""
    after_empty = False
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line)
        if after_empty and not fence and not line[:1].isspace():
            cut = place
        if found and not fence:
            fence = found[1]
        elif found and found[1] == fence:
            fence = ""
        after_empty = not line.strip()
        place += len(line)
    return text[:cut], text[cut:]
