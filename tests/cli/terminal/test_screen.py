"""Model output is hostile input: control characters never reach the terminal."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from danlu.chat.plain import show_answer
from danlu.cli.main import main
from danlu.cli.terminal.screen import json_line
from danlu.dialog.events import Call, End, Event, Text, Thought, Usage
from danlu.text.conversation import ToolCall
from danlu.text.printable import printable

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\x90q\x7f\x08\r\x00"
END = (Usage(prompt_tokens=1, completion_tokens=1), End(reason="stop"))


def is_harmless(text: str) -> bool:
    return all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in text)


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


# Unicode's names for what turns the reading direction; marks within a word (LRM, RLM) stay.
TURNING = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


@given(st.text())
@example("a\u2028b\u2029c")  # they break a line
@example("a\u202eb\u2066c\u200fd")
def test_nothing_else_is_dropped(text: str) -> None:
    def is_kept(c: str) -> bool:
        is_control = unicodedata.category(c) in ("Cc", "Zl", "Zp")
        return c in "\n\t" or not (is_control or unicodedata.bidirectional(c) in TURNING)

    assert printable(text) == "".join(filter(is_kept, text))


@given(st.text())
def test_json_holds_every_character_and_shows_none(text: str) -> None:
    line = json_line({"content": text})
    assert json.loads(line) == {"content": text}
    assert is_harmless(line)
    assert "\n" not in line


@pytest.mark.parametrize("is_terminal", [True, False])
def test_every_part_of_an_answer_is_made_harmless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    call = ToolCall(name=f"look{HOSTILE}", arguments=f'{{"where": "{HOSTILE}"}}')
    # A sequence cut in two between events is none the safer.
    answer: list[Event] = [
        Thought(text=f"think{HOSTILE}"),
        Text(text="one\x1b"),
        Text(text=f"[2Jtwo{HOSTILE}"),
        Call(call=call),
        *END,
    ]
    assert show_answer(iter(answer)) == answer
    output = capsys.readouterr().out
    assert all(word in output for word in ("think", "one", "two", "look"))
    for ours in ("\x1b[2m", "\x1b[0m"):
        assert output.count(ours) == is_terminal
        output = output.replace(ours, "")
    assert is_harmless(output)


def test_an_answer_that_was_cut_is_called_so_apart_from_the_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=40)
    show_answer(iter([Text(text="and then"), usage, End(reason="length")]))
    said = capsys.readouterr()
    assert said.out == "and then\n"
    assert "cut after 40 tokens; --max_new_tokens 80 allows more" in said.err
    show_answer(iter([Text(text="the end"), usage, End(reason="stop")]))
    assert capsys.readouterr().err == ""


def test_ctrl_c_keeps_what_came_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    def answer() -> Iterator[Event]:
        yield Text(text="as far as")
        raise KeyboardInterrupt

    assert show_answer(answer()) == [Text(text="as far as")]
    assert capsys.readouterr().out == "as far as\n"


def test_a_downloaded_folder_cannot_write_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"model_type": f"lla{HOSTILE}ma"}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    assert main(["info", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "lla" in error
    assert is_harmless(error)
    assert len(error.splitlines()) == 3
