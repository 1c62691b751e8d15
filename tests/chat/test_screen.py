"""What a terminal shows of an answer while it comes, however fast the machine is."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console

from danlu.chat.figures import AnswerFigures
from danlu.chat.screen import Screen
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
