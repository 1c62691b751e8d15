"""The chat in a terminal: Markdown that grows, folded thoughts, figures, answers side by side.

What is finished is printed and scrolls away like any output; only what still changes is drawn
again, and never more of it than fits. Must not know sessions or models.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text as Styled

from danlu.chat.figures import AnswerFigures
from danlu.chat.markdown import AnswerMarkdown, split_finished
from danlu.dialog.events import Call, Event, Text, Thought
from danlu.language import _, wrapped
from danlu.moving_line import print_above
from danlu.text.printable import printable
from danlu.text.render import call_text

_REDRAWS_PER_S = 10


class Screen:
    """Shows a chat in a terminal."""

    is_terminal = True

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, emoji=False)

    def say(self, text: str, *, dim: bool = False, indent: str = "") -> None:
        """Print sentences of ours, or of files and names; a broken line goes on behind `indent`."""
        style = "dim" if dim else ""
        lines = printable(text).split("\n")
        width = self._console.width
        whole = "\n".join(part for line in lines for part in wrapped(line, width, indent))
        # Rich would break a command that is longer than a line, which could then not be copied.
        self._console.print(Styled(whole, style=style), soft_wrap=True)

    def answer(self, events: Iterator[Event], figures: AnswerFigures) -> None:
        """Show an answer while it comes. Ctrl-C stops it; what came stays on the screen."""
        growing = _Growing()
        with self._live(growing) as live:
            try:
                for event in figures.watch(events):
                    for part in growing.take(event):
                        print_above(live, part)
            except KeyboardInterrupt:
                pass
        for part in growing.finish():
            self._console.print(part)

    def side_by_side(self, streams: Mapping[str, tuple[Iterator[Event], AnswerFigures]]) -> None:
        """Show answers in columns while they come; Ctrl-C stops all of them."""
        columns = {name: _Growing(is_whole=True) for name in streams}
        running = {name: figures.watch(events) for name, (events, figures) in streams.items()}
        with self._live(_Columns(columns)):
            try:
                while running:
                    for name in list(running):
                        event = next(running[name], None)
                        if event is None:
                            del running[name]
                        else:
                            columns[name].take(event)
            except KeyboardInterrupt:
                pass
        table = _table(columns)
        table.add_row(*(Group(*column.finish()) for column in columns.values()))
        self._console.print(table)

    def _live(self, renderable: RenderableType) -> Live:
        return Live(
            _Tail(renderable),
            console=self._console,
            refresh_per_second=_REDRAWS_PER_S,
            transient=True,
        )


class _Growing:
    """An answer on its way: a thought, or the text that is not printed yet.

    is_whole: nothing is given out before the end.
    """

    def __init__(self, *, is_whole: bool = False) -> None:
        self._is_whole = is_whole
        self._thought = self._text = ""
        self._thought_start: float | None = None
        self._spinner = Spinner("dots", style="dim")
        self._parts = 0
        self._folded: list[RenderableType] = []

    def take(self, event: Event) -> list[RenderableType]:
        """Add an event; return what is finished by it."""
        if isinstance(event, Thought):
            if self._thought_start is None:
                self._thought_start = time.monotonic()
            self._thought += event.text
        elif isinstance(event, Text | Call):
            done = self._fold()
            self._text += event.text if isinstance(event, Text) else _fenced(event)
            finished = ""
            if not self._is_whole:
                finished, self._text = split_finished(self._text)
            return [*done, *self._blocks(finished)]
        return []

    def finish(self) -> list[RenderableType]:
        """Return the rest of the answer."""
        done = self._fold()
        rest, self._text = self._text, ""
        return [*self._folded, *done, *self._blocks(rest)]

    def _fold(self) -> list[RenderableType]:
        if self._thought_start is None:
            return []
        seconds = time.monotonic() - self._thought_start
        self._thought, self._thought_start = "", None
        folded = Styled(
            _("thought for {seconds:.1f} s").format(seconds=seconds), style="dim italic"
        )
        if self._is_whole:
            self._folded.append(folded)
            return []
        return [folded]

    def _blocks(self, text: str) -> list[RenderableType]:
        if not text.strip():
            return []
        self._parts += 1
        gap = [Styled("")] if self._parts > 1 else []
        return [*gap, AnswerMarkdown(text.rstrip("\n"))]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._folded
        if self._thought_start is not None:
            yield Styled(printable(self._thought), style="dim")
        if self._text:
            if self._parts:
                yield Styled("")
            yield AnswerMarkdown(self._text)
        else:
            yield self._spinner


class _Tail:
    """The last lines of something, as many as the terminal has."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._inner, options.update(height=None), pad=False)
        for number, line in enumerate(lines[-max(3, console.height - 2) :]):
            if number:
                yield Segment.line()
            yield from line


class _Columns:
    """Answers beside each other."""

    def __init__(self, columns: Mapping[str, _Growing]) -> None:
        self._columns = columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _table(self._columns)
        table.add_row(*self._columns.values())
        yield table


def _table(columns: Mapping[str, _Growing]) -> Table:
    table = Table(expand=True)
    for name in columns:
        table.add_column(Styled(printable(name)), ratio=1, overflow="fold")
    return table


def _fenced(event: Call) -> str:
    return f"\n```\n{call_text(event.call)}\n```\n"
