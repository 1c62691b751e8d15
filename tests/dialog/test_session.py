"""A session is a tree: going back loses nothing, and a file brings all of it back."""

from __future__ import annotations

import json

import pytest

from danlu.dialog.session import Session
from danlu.errors import DataError
from danlu.text.conversation import Message, ToolCall


def asked(session: Session, question: str, answer: str, reasoning: str = "") -> None:
    session.add(Message(role="user", content=question))
    session.add(Message(role="assistant", content=answer, reasoning=reasoning))


def contents(session: Session) -> list[str]:
    return [message.content for message in session.conversation().messages]


def test_an_earlier_question_is_edited_and_the_old_branch_stays() -> None:
    session = Session(system="Be kind.")
    asked(session, "one", "first")
    asked(session, "two", "second")
    session.back_to(session.questions[0])
    asked(session, "uno", "primo")
    assert contents(session) == ["Be kind.", "uno", "primo"]
    assert [turn.message.content for turn in session.turns] == [
        "one", "first", "two", "second", "uno", "primo",
    ]  # fmt: skip


def test_a_saved_session_comes_back_with_its_branches_and_thoughts() -> None:
    session = Session(system="系统")
    asked(session, "一", "答", reasoning="想")
    assert session.answer is not None
    session.replace_answer(Message(role="assistant", content="another", reasoning=""))
    again = Session.of_record(json.loads(json.dumps(session.record())), "chat.json")
    assert contents(again) == contents(session) == ["系统", "一", "another"]
    assert again.record() == session.record()
    assert again.turns[1].message.reasoning == "想"


def test_calls_of_tools_and_what_they_returned_come_back() -> None:
    tool = {"type": "function", "function": {"name": "weather"}}
    session = Session(tools=(tool,))
    call = ToolCall(name="weather", arguments='{"city": "上海"}')
    session.add(Message(role="user", content="?"))
    session.add(Message(role="assistant", content="", reasoning="", tool_calls=(call,)))
    session.add(Message(role="tool", content="rain"))
    again = Session.of_record(json.loads(json.dumps(session.record())), "chat.json")
    assert again.conversation() == session.conversation()


@pytest.mark.parametrize(
    "change",
    [
        {"danlu_chat": 2},
        {"turns": [{"before": 0, "role": "user", "content": "a turn before itself"}]},
        {"turns": [{"before": None, "role": "system", "content": "no turn"}]},
        {"turns": [{"before": None, "role": "user", "content": 3}]},
        {"turns": None},
        {"turns": [{"before": None, "role": "assistant", "content": "", "tool_calls": [{}]}]},
        {"tools": [{"name": "weather"}]},
        {"tools": 3},
        {"end": 7},
        {"end": -1},
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, object]) -> None:
    session = Session()
    asked(session, "one", "first")
    with pytest.raises(DataError, match=r"chat\.json holds no conversation"):
        Session.of_record({**session.record(), **change}, "chat.json")
