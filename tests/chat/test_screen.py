"""What a terminal shows of an answer while it comes, however fast the machine is."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pyte
import pytest
from rich.console import Console, ConsoleOptions, RenderResult

from danlu.chat import screen as screens
from danlu.chat.commands.table import command_table
from danlu.chat.figures import AnswerFigures
from danlu.chat.screen import Screen
from danlu.chat.talk import Chat
from danlu.dialog.events import Event, Text, Thought
from tests.helpers.waiting import wait_until


def test_a_thought_is_shown_while_it_comes() -> None:
    seen = io.StringIO()
    screen = Screen(Console(file=seen, force_terminal=True, width=80, height=24))

    def answer() -> Iterator[Event]:
        yield Thought(text="7+5=12")
        wait_until(lambda: "7+5=12" in seen.getvalue())
        yield Text(text="27 + 15 = 42")

    screen.answer(answer(), AnswerFigures())
    assert seen.getvalue().rstrip().endswith("27 + 15 = 42")


def test_the_help_is_aligned_where_its_lines_are_broken() -> None:
    seen = io.StringIO()
    screen = Screen(Console(file=seen, width=60))
    opened = SimpleNamespace(screen=screen, commands=command_table())
    opened.commands["help"].run(cast(Chat, opened), "")
    listing = seen.getvalue().split("\n\n")[0].splitlines()
    further = {len(line) - len(line.lstrip()) for line in listing if not line.startswith("  /")}
    assert further == {listing[0].index("show the commands")}


def test_what_stands_above_an_answer_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thought of several lines is folded while another thread draws the screen anew."""
    monkeypatch.setattr(screens, "_REDRAWS_PER_S", 2000)
    draw = screens._Tail.__rich_console__

    def slowly(tail: screens._Tail, console: Console, options: ConsoleOptions) -> RenderResult:
        time.sleep(0.002)
        yield from draw(tail, console, options)

    monkeypatch.setattr(screens._Tail, "__rich_console__", slowly)

    def answer() -> Iterator[Event]:
        for letter in "abcdef":
            yield Thought(text=f"{letter}\n")
            time.sleep(0.001)
        for word in ("one ", "two ", "three"):
            yield Text(text=word)
            time.sleep(0.001)

    for _again in range(20):
        seen = io.StringIO()
        console = Console(file=seen, force_terminal=True, width=80, height=24)
        console.print("User: a question")
        Screen(console).answer(answer(), AnswerFigures())
        terminal = pyte.Screen(80, 24)
        pyte.Stream(terminal).feed(seen.getvalue().replace("\n", "\r\n"))
        lines = [line.rstrip() for line in terminal.display if line.strip()]
        assert lines[0] == "User: a question"
        assert lines[1].startswith("thought for ")
        assert lines[2:] == ["one two three"]
