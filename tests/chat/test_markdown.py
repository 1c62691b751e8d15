"""Markdown of a model: nothing of it is lost, none of it controls the terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from danlu.chat.markdown import AnswerMarkdown, split_finished

TEXT = """# Title

One line
and another.

1. first

2. second

   more of it

```python
x = 1

y = 2
```

| a | b |
|---|---|
| 1 | 2 |

The end <b>bold?</b>
"""


def shown(text: str, width: int = 60) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(AnswerMarkdown(text))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_part_is_shown_where_it_stands() -> None:
    lines = [line.strip() for line in shown(TEXT).splitlines()]
    for line in ("Title", "One line", "and another.", "x = 1", "The end <b>bold?</b>"):
        assert line in lines
    assert any("1 first" in line for line in lines)


def test_a_growing_text_is_cut_where_nothing_changes_any_more() -> None:
    """Wherever the stream is cut, the finished parts stand for good, and all of them make up it."""
    parts, rest = [], ""
    for character in TEXT:
        finished, rest = split_finished(rest + character)
        if finished:
            parts.append(finished)
    assert "".join(parts) + rest == TEXT
    assert "```python\nx = 1\n\ny = 2\n```\n\n" in parts
    assert any(part.startswith("2. second") and "more of it" in part for part in parts)
    assert rest.startswith("The end")


@given(st.text(alphabet="ab \n`~-#1.", max_size=60))
def test_cutting_loses_nothing(text: str) -> None:
    assert "".join(split_finished(text)) == text


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b]0;title\x07\x1b[2J",
        "[a link](https://example.org/\x1b[2J)",
        "[a link](https://example.org)",
        "`\x9b31m`",
        "```\n\x1b]52;c;c3RlYWw=\x07\n```",
        "![an image](https://example.org/\x07)",
        "&#27;[2J",
        "\u202ereversed",
        "&#x202e;reversed",
    ],
)
def test_control_sequences_never_reach_the_terminal(hostile: str) -> None:
    assert not any(character in shown(hostile) for character in "\x1b\x07\x9b\u202e")
