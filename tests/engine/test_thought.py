"""The thought of an answer: its budget is exact, and a bound answer begins right behind it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from danlu.engine.request import Thinking
from danlu.engine.sampling.thought import ThoughtTracker

START, END, NEWLINE, BLANK = 1, 2, 3, 4
CLOSING = (NEWLINE, END, NEWLINE)


def tracker(
    *, budget: int | None = None, is_open: bool = False, bound: bool = False
) -> ThoughtTracker:
    thinking = Thinking(start_id=START, end_id=END, closing=CLOSING, is_open=is_open, budget=budget)
    return ThoughtTracker(
        thinking, is_blank=lambda token: token in (NEWLINE, BLANK), answer_is_bound=bound
    )


def write(subject: ThoughtTracker, wishes: list[int]) -> list[int]:
    """What is written by a model with these wishes."""
    written = []
    for wish in wishes:
        token = wish if subject.forced is None else subject.forced
        subject.record(token)
        written.append(token)
    return written


@given(budget=st.integers(0, 20), is_open=st.booleans(), bound=st.booleans())
def test_a_thought_without_end_gets_its_budget_and_no_token_more(
    budget: int, is_open: bool, bound: bool
) -> None:
    subject = tracker(budget=budget, is_open=is_open, bound=bound)
    before = [] if is_open else [START]
    wishes = [*before, *[9] * 40]
    assert write(subject, wishes) == [
        *before, *[9] * budget, *CLOSING, *[9] * (40 - budget - len(CLOSING)),
    ]  # fmt: skip
    assert subject.in_answer


@given(length=st.integers(0, 5), bound=st.booleans())
def test_a_thought_that_ends_within_its_budget_is_left_alone(length: int, bound: bool) -> None:
    subject = tracker(budget=6, bound=bound)
    wishes = [START, *[9] * length, END, 8, 8, 8, 8, 8, 8, 8, 8]
    written = write(subject, wishes)
    # A bound answer begins behind the newline that `closing` has after the end.
    assert written == [*wishes[: length + 2], NEWLINE if bound else 8, *wishes[length + 3 :]]
    assert subject.in_answer


def test_white_space_may_stand_before_a_thought_and_nothing_else() -> None:
    assert write(tracker(budget=0), [NEWLINE, BLANK, START, 9, 9, 9]) == [
        NEWLINE, BLANK, START, *CLOSING,
    ]  # fmt: skip
    assert write(tracker(budget=0), [9, START, 9, 9]) == [9, START, 9, 9]


def test_a_bound_answer_opens_its_thought_at_once() -> None:
    subject = tracker(bound=True)
    assert subject.forced == START
    assert write(subject, [9, 9]) == [START, 9]
    assert not subject.in_answer


def test_without_thinking_the_answer_begins_at_once() -> None:
    subject = ThoughtTracker(None, is_blank=lambda _token: False, answer_is_bound=True)
    assert subject.in_answer
    assert write(subject, [START, 9]) == [START, 9]
