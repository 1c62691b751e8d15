"""Stop texts: found however the text is cut, never given out, nothing held back for good."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from danlu.text.stop import StopFinder

letters = st.text(alphabet="ab停", max_size=12)


@given(
    st.lists(letters, max_size=6), st.lists(letters.filter(bool).map(lambda s: s[:4]), max_size=3)
)
def test_pieces_do_not_matter(pieces: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops)
    text, given, stopped = "".join(pieces), "", False
    for piece in pieces:
        ready, stopped = finder.feed(piece)
        given += ready
        assert not any(stop in given for stop in stops)
        if stopped:
            break
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    assert stopped == bool(ends)
    assert given + ("" if stopped else finder.finish()) == (text[: min(ends)[1]] if ends else text)


def test_only_what_may_become_a_stop_text_waits() -> None:
    finder = StopFinder(["</s>"])
    assert finder.feed("Hello <") == ("Hello ", False)
    assert finder.feed("b>") == ("<b>", False)
    assert finder.feed("</s") == ("", False)
    assert finder.finish() == "</s"
