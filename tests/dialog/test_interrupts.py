"""Ctrl-C in the middle of a step: the step is finished first, and the engine stays usable."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from danlu.dialog.dialog import Dialog
from danlu.dialog.events import assistant_message
from danlu.engine.engine import Engine
from danlu.engine.request import SamplingSettings
from danlu.engine.scheduler import Scheduler
from danlu.engine.sequence import RequestSequence
from danlu.interrupts import whole_step
from danlu.text.conversation import Conversation, Message
from tests.helpers.models.invariants import check_engine
from tests.helpers.models.tiny_engine import engine, tokenizer

HELLO = Conversation(messages=(Message(role="user", content="你好"),))
SAMPLING = SamplingSettings(temperature=0.0, max_tokens=12)


def dialog(over: Engine) -> Dialog:
    return Dialog(
        over, tokenizer(), template="qwen3", enable_thinking=True, end_token_ids=frozenset()
    )


def interrupting(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Press Ctrl-C as the function is called for the `at`-th time."""
    calls = 0

    def called(*words: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*words, **named)

    return called


@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(Engine, "_take"), (RequestSequence, "accept"), (Scheduler, "commit")],
    ids=["take", "accept", "commit"],
)
def test_a_step_is_finished_before_ctrl_c_ends_the_answer(
    owner: Any, name: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two answers run, as in /compare; the one that goes on misses nothing."""
    over = engine()
    expected = assistant_message(dialog(engine()).answer(HELLO, sampling=SAMPLING))
    ended = dialog(over).answer(HELLO, sampling=SAMPLING)
    other = dialog(over).answer(HELLO, sampling=SAMPLING)
    came = [next(ended), next(other)][1:]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupting(getattr(owner, name), at))
        with pytest.raises(KeyboardInterrupt):
            list(ended)
    came += other
    assert assistant_message(came) == expected
    check_engine(over)
    assert over.num_unfinished == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert assistant_message(dialog(over).answer(HELLO, sampling=SAMPLING)) == expected


def test_the_step_that_ends_an_answer_frees_its_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    over = engine()
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "remove", interrupting(Scheduler.remove, 1))
        with pytest.raises(KeyboardInterrupt):
            list(dialog(over).answer(HELLO, sampling=SAMPLING))
    check_engine(over)


def test_a_second_ctrl_c_does_not_wait() -> None:
    reached = []

    def pressed() -> None:
        with whole_step():
            for number in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        pressed()
    assert reached == [0]


def test_where_ctrl_c_means_something_else_it_goes_on_to() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
    try:
        with whole_step():
            os.kill(os.getpid(), signal.SIGINT)
            assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_the_handler_alone() -> None:
    found: list[object] = []

    def inside() -> None:
        with whole_step():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
