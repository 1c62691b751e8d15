"""What counts as well-formed thinking, as repeating, as empty."""

from __future__ import annotations

import pytest

from danlu.workflows.answer_form import count_forms, repeats_itself, thought_form
from danlu.workflows.answers import Answer

GOOD = "<think>\nhm\n</think>\n\nyes"


@pytest.mark.parametrize(
    ("raw", "thinking", "not_thinking", "either"),
    [
        (GOOD, "kept", "broken", "kept"),
        ("<think>\n\n</think>\n\nyes", "kept", "broken", "kept"),
        ("\n" + GOOD, "kept", "broken", "kept"),
        ("yes", "broken", "kept", "kept"),
        ("", "broken", "kept", "kept"),
        ("<think>hm", "broken", "broken", "broken"),
        ("hm</think>yes", "broken", "broken", "broken"),
        ("yes " + GOOD, "broken", "broken", "broken"),
        (GOOD + GOOD, "broken", "broken", "broken"),
        ("</think>hm<think>", "broken", "broken", "broken"),
    ],
)
def test_thinking_tags(raw: str, thinking: str, not_thinking: str, either: str) -> None:
    answer = Answer(raw=raw, ended="stop")
    assert thought_form(answer, enable_thinking=True) == thinking
    assert thought_form(answer, enable_thinking=False) == not_thinking
    assert thought_form(answer, enable_thinking=None) == either


@pytest.mark.parametrize("ended", ["length", "time"])
def test_a_thought_that_was_cut_off_is_not_judged(ended: str) -> None:
    answer = Answer(raw="<think>\nlet me see", ended=ended)  # type: ignore[arg-type]
    assert thought_form(answer, enable_thinking=True) == "unfinished"
    assert thought_form(answer, enable_thinking=False) == "broken"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我很好。" * 5, True),
        ("Start. " + "I do not know. " * 6, True),
        ("----------------------------------------", False),
        ("| --- | --- | --- | --- | --- | --- |", False),
        ("One. Two. Three. Four. Five. Six.", False),
        ("ha ha ha ha", False),
    ],
)
def test_repetition(text: str, expected: bool) -> None:
    assert repeats_itself(text) is expected


def test_each_answer_is_counted_once_where_it_belongs() -> None:
    answers = [
        Answer(raw=GOOD, ended="stop"),
        Answer(raw="<think>\nhm", ended="length"),
        Answer(raw="<think>\n\n</think>\n\n", ended="stop"),
        Answer(raw="na na na na na na na na na na na ", ended="length"),
        Answer(raw="", ended="time"),
        Answer(raw="", ended="refused", problem="too long"),
    ]
    found = count_forms(answers, enable_thinking=True)
    assert (found.answers, found.missing, found.refused) == (4, 1, 1)
    assert (found.thought_kept, found.thought_broken, found.thought_unfinished) == (2, 1, 1)
    assert (found.endless, found.repeating, found.empty) == (2, 1, 1)
