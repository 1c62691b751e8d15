"""Model output is hostile input: control characters never reach the terminal."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.cli.screen import printable, show_answer
from danlu.dialog.events import Call, End, Event, Text, Thought, Usage
from danlu.text.conversation import ToolCall

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\x90q\x7f\x08\r\x00"
END = (Usage(prompt_tokens=1, completion_tokens=1), End(reason="stop"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n你好，🦊", "plain\ttext\n你好，🦊"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]52;c;c3RlYWw=\x07", "]52;c;c3RlYWw="),
        ("\x9b2J \x9d0;title\x9c", "2J 0;title"),
        ("secret\rpublic\x08\x7f", "secretpublic"),
    ],
)
def test_control_characters_are_dropped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_nothing_else_is_dropped(text: str) -> None:
    kept = [c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc"]
    assert printable(text) == "".join(kept)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_every_part_of_an_answer_is_made_harmless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    call = ToolCall(name=f"look{HOSTILE}", arguments=f'{{"where": "{HOSTILE}"}}')
    # A sequence cut in two between events is none the safer.
    answer: list[Event] = [
        Thought(f"think{HOSTILE}"),
        Text("one\x1b"),
        Text(f"[2Jtwo{HOSTILE}"),
        Call(call),
        *END,
    ]
    assert show_answer(iter(answer)) == answer
    output = capsys.readouterr().out
    assert all(word in output for word in ("think", "one", "two", "look"))
    for ours in ("\x1b[2m", "\x1b[0m"):
        assert output.count(ours) == is_terminal
        output = output.replace(ours, "")
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in output)


def test_ctrl_c_keeps_what_came_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    def answer() -> Iterator[Event]:
        yield Text("as far as")
        raise KeyboardInterrupt

    assert show_answer(answer()) == [Text("as far as")]
    assert capsys.readouterr().out == "as far as\n"
