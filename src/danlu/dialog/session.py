"""A conversation as a tree: what was asked and answered, and every way that it went.

A message is never changed. Editing an earlier one, or asking again, begins a new branch beside it;
the session remembers the branch that it stands on. Must not know models, screens or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.errors import DataError
from danlu.language import _
from danlu.text.conversation import Conversation, Message, ToolCall, message_fields

VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """A message in its place: what stands before it, None for the first."""

    message: Message
    before: Turn | None = None

    @property
    def path(self) -> tuple[Turn, ...]:
        """All turns from the first to this one."""
        turns: list[Turn] = []
        turn: Turn | None = self
        while turn is not None:
            turns.append(turn)
            turn = turn.before
        return tuple(reversed(turns))


@dataclass(kw_only=True)
class Session:
    """The branches of a conversation. end: the last turn.

    system, tools: what stands before all of them, and what answers may call.
    """

    system: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    turns: list[Turn] = field(default_factory=list)
    end: Turn | None = None

    @property
    def path(self) -> tuple[Turn, ...]:
        """The turns of the present branch."""
        return self.end.path if self.end else ()

    @property
    def questions(self) -> list[Turn]:
        """What the user has asked on this branch."""
        return [turn for turn in self.path if turn.message.role == "user"]

    @property
    def answer(self) -> Turn | None:
        """The last answer, where the branch ends with one."""
        return self.end if self.end and self.end.message.role == "assistant" else None

    def add(self, message: Message) -> None:
        """Put a message behind the present end."""
        self.end = Turn(message=message, before=self.end)
        self.turns.append(self.end)

    def back_to(self, turn: Turn) -> None:
        """Stand before a turn, so that what is added next is a branch beside it."""
        self.end = turn.before

    def replace_answer(self, message: Message) -> None:
        """Put another answer in the place of the last one; the former stays a branch."""
        if self.answer is None:
            raise ValueError("the branch ends with no answer")
        self.back_to(self.answer)
        self.add(message)

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""
        self.turns, self.end = [], None

    def conversation(self, question: str | None = None) -> Conversation:
        """Return the branch as a model is asked it, with a question that is not yet part of it."""
        messages = [turn.message for turn in self.path]
        if question is not None:
            messages.append(Message(role="user", content=question))
        return Conversation.framed(messages, system=self.system, tools=self.tools)

    def record(self) -> dict[str, Any]:
        """Write all branches as a JSON object."""
        number = {id(turn): index for index, turn in enumerate(self.turns)}
        return {
            "danlu_chat": VERSION,
            "system": self.system,
            **({"tools": list(self.tools)} if self.tools else {}),
            "end": number[id(self.end)] if self.end else None,
            "turns": [
                {
                    "before": number[id(turn.before)] if turn.before else None,
                    **message_fields(turn.message),
                }
                for turn in self.turns
            ],
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any], path: object) -> Session:
        """Read what `record` wrote. Raises DataError where it is something else."""
        session = cls(system=str(record.get("system") or ""))
        try:
            if record["danlu_chat"] != VERSION:
                raise ValueError
            session.tools = tuple(_tool(entry) for entry in record.get("tools") or ())
            for entry in record["turns"]:
                before = entry["before"]
                turn = Turn(
                    message=_message(entry),
                    before=None if before is None else session.turns[_place(before)],
                )
                session.turns.append(turn)
            end = record["end"]
            session.end = None if end is None else session.turns[_place(end)]
        except (KeyError, TypeError, ValueError, IndexError):
            raise DataError(
                _("{path} holds no conversation of danlu chat.").format(path=path),
                why=_("A conversation is a JSON file that /save has written."),
                fix=_("Name another file: /load FILE"),
            ) from None
        return session


def _message(entry: Mapping[str, Any]) -> Message:
    role, content = entry["role"], entry["content"]
    reasoning = entry.get("reasoning_content", "")
    if role not in ("user", "assistant", "tool") or not isinstance(content, str):
        raise ValueError(role)
    if not isinstance(reasoning, str):
        raise ValueError(reasoning)
    if role != "assistant":
        return Message(role=role, content=content)
    calls = tuple(_call(call["function"]) for call in entry.get("tool_calls") or ())
    return Message(role="assistant", content=content, reasoning=reasoning, tool_calls=calls)


def _call(function: Mapping[str, Any]) -> ToolCall:
    name, arguments = function["name"], function["arguments"]
    if not isinstance(name, str) or not isinstance(arguments, str | dict):
        raise ValueError(name)
    return ToolCall(name=name, arguments=arguments)


def _tool(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(entry["function"]["name"], str):
        raise ValueError(entry)
    return entry


def _place(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value
