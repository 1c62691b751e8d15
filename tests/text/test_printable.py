"""Text of others on the terminal moves no cursor, turns no direction and forges no line."""

from __future__ import annotations

import pytest

from danlu.data.findings import Finding
from danlu.text.printable import one_line, printable


@pytest.mark.parametrize("character", [*"\x00\x1b\x7f\x9b\r", *"\u2028\u2029\u202e\u2066\u2069"])
def test_what_is_no_text_is_dropped(character: str) -> None:
    assert printable(f"a{character}b") == "ab"
    assert character not in one_line(f"a{character}b")


def test_text_is_left_as_it_is() -> None:
    text = "one\ntwo\t你好 🦊 \u200d é"
    assert printable(text) == text
    assert one_line(text) == text.replace("\n", " ")


def test_the_name_of_a_file_forges_no_line() -> None:
    finding = Finding(place="nl\nNothing was found..jsonl:1", kind="x", what="Bad.", fix="Mend it.")
    assert str(finding) == "nl Nothing was found..jsonl:1: Bad. Mend it."
