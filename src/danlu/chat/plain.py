"""Answers as plain text, piece by piece: for pipes, files and `--plain`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping

from danlu.chat.figures import AnswerFigures
from danlu.dialog.events import Call, End, Event, Text, Thought, Usage
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.text.printable import printable
from danlu.text.render import call_text

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def show_answer(events: Iterator[Event]) -> list[Event]:
    """Stream an answer to standard output, thoughts dimmed; return all its events.

    Ctrl-C stops the answer: what came so far is returned. An answer that was cut is called so.
    """
    colours = sys.stdout.isatty()
    seen: list[Event] = []
    in_thought = False
    try:
        for event in _once_begun(events):
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


def _once_begun(events: Iterable[Event]) -> Iterator[Event]:
    """Pass the events on; until the first comes, a line moves on a terminal."""
    waiting = iter(events)
    with MovingLine(_("Reading the prompt")):
        first = next(waiting, None)
    if first is not None:
        yield first
        yield from waiting


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


class PlainScreen:
    """Shows a chat as plain text."""

    is_terminal = False

    def say(self, text: str, *, dim: bool = False, indent: str = "") -> None:
        """Print sentences; nothing is dim here, and no line broken."""
        print(printable(text))

    def answer(self, events: Iterator[Event], figures: AnswerFigures) -> None:
        """Print an answer while it comes."""
        show_answer(iter(figures.watch(events)))

    def side_by_side(self, streams: Mapping[str, tuple[Iterator[Event], AnswerFigures]]) -> None:
        """Print answers one after the other, each under its name."""
        for name, (events, figures) in streams.items():
            print(f"[{printable(name)}]")
            self.answer(events, figures)
            print()
