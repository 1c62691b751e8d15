"""Chats in the database: a tree of turns each, with the branch that is shown.

Text goes in as it is and comes out as it went in; whoever shows it has to take it for hostile.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from danlu.errors import UsageError
from danlu.language import _
from danlu.text.conversation import Conversation, Message, Role, ToolCall
from danlu.web.database import Database

Json = dict[str, Any]
TurnState = Literal["done", "running", "stopped", "failed"]
MOST_LISTED = 200
_TITLE_SIGNS = 60


@dataclass(frozen=True, kw_only=True)
class KeptTurn:
    """A message in its place. before: the turn that it follows; None: it is the first.

    state: of an answer; running turns hold what has arrived so far. facts: who answered, tokens and
    seconds; for an error its message.
    """

    id: int
    before: int | None
    role: str
    content: str
    reasoning: str = ""
    tool_calls: Sequence[Json] = ()
    state: TurnState = "done"
    facts: Json = field(default_factory=dict)
    created: float = 0.0


class KeptChats:
    """Reads and writes chats. Raises UsageError for one that is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def titles(self, search: str = "", *, before: float | None = None) -> list[Json]:
        """Return titles, the latest first; those in which a text stands, in whatever turn.

        before: only chats that changed earlier, for the next page of the list.
        """
        words: list[Any] = [before if before is not None else float("inf")]
        found = ""
        if search:
            pattern = f"%{_escaped(search)}%"
            found = (
                "AND (title LIKE ? ESCAPE '\\' OR id IN "
                "(SELECT chat FROM turns WHERE content LIKE ? ESCAPE '\\'))"
            )
            words += [pattern, pattern]
        rows = self._database.all(
            f"SELECT id, title, changed FROM chats WHERE changed < ? {found} "
            f"ORDER BY changed DESC LIMIT {MOST_LISTED}",
            words,
        )
        return [dict(row) for row in rows]

    def create(self, settings: Json, *, title: str = "") -> str:
        """Begin a chat; return its id."""
        id_of_chat, now = secrets.token_hex(8), time.time()
        self._database.change(
            "INSERT INTO chats (id, title, created, changed, settings) VALUES (?, ?, ?, ?, ?)",
            (id_of_chat, title, now, now, json.dumps(settings, ensure_ascii=False)),
        )
        return id_of_chat

    def whole(self, id_of_chat: str) -> Json:
        """Return a chat with all its turns."""
        row = self._row(id_of_chat)
        return {
            **{name: row[name] for name in ("id", "title", "created", "changed", "draft", "shown")},
            "settings": json.loads(row["settings"]),
            "turns": [vars(turn) for turn in self.turns(id_of_chat)],
        }

    def change(self, id_of_chat: str, **values: Any) -> None:
        """Change title, draft, settings or the turn that the shown branch ends with."""
        self._row(id_of_chat)
        if "shown" in values:
            self._turn_of(id_of_chat, values["shown"])
        if "settings" in values:
            values["settings"] = json.dumps(values["settings"], ensure_ascii=False)
        names = ", ".join(f"{name} = ?" for name in values)
        self._database.change(
            f"UPDATE chats SET {names} WHERE id = ?", (*values.values(), id_of_chat)
        )

    def delete(self, id_of_chat: str) -> None:
        """Remove a chat with all its turns."""
        self._row(id_of_chat)
        self._database.change("DELETE FROM chats WHERE id = ?", (id_of_chat,))

    def turns(self, id_of_chat: str) -> list[KeptTurn]:
        """Return all turns, each behind the one that it follows."""
        rows = self._database.all("SELECT * FROM turns WHERE chat = ? ORDER BY id", (id_of_chat,))
        return [_turn(row) for row in rows]

    def add(
        self,
        id_of_chat: str,
        *,
        before: int | None,
        role: str,
        content: str,
        reasoning: str = "",
        state: TurnState = "done",
        facts: Json | None = None,
        tool_calls: Sequence[Json] = (),
    ) -> int:
        """Add a turn, which is shown from now on; the first question names the chat."""
        chat, now = self._row(id_of_chat), time.time()
        if before is not None:
            self._turn_of(id_of_chat, before)
        with self._database.transaction() as connection:
            number = connection.execute(
                "INSERT INTO turns "
                "(chat, before, role, content, reasoning, tool_calls, state, facts, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    id_of_chat, before, role, content, reasoning, _json(list(tool_calls)), state,
                    _json(facts or {}), now,
                ),
            ).lastrowid or 0  # fmt: skip
            title = chat["title"] or " ".join(content.split())[:_TITLE_SIGNS]
            connection.execute(
                "UPDATE chats SET title = ?, changed = ?, shown = ? WHERE id = ?",
                (title, now, number, id_of_chat),
            )
        return number

    def write_answer(
        self,
        number: int,
        *,
        content: str,
        reasoning: str,
        state: TurnState,
        facts: Json,
        tool_calls: Sequence[Json] = (),
    ) -> None:
        """Write what has arrived of an answer."""
        self._database.change(
            "UPDATE turns SET content = ?, reasoning = ?, tool_calls = ?, state = ?, facts = ? "
            "WHERE id = ?",
            (content, reasoning, _json(list(tool_calls)), state, _json(facts), number),
        )

    def cut_off(self) -> None:
        """Mark answers that were running when a server ended, so that nobody waits for them."""
        self._database.change("UPDATE turns SET state = 'stopped' WHERE state = 'running'")

    def branch(self, id_of_chat: str, last: int | None) -> list[KeptTurn]:
        """Return the turns from the first one to `last`."""
        known = {turn.id: turn for turn in self.turns(id_of_chat)}
        found: list[KeptTurn] = []
        while last is not None:
            turn = known.get(last)
            if turn is None:
                raise _no_turn()
            found.append(turn)
            last = turn.before
        return found[::-1]

    def _turn_of(self, id_of_chat: str, number: int) -> None:
        found = self._database.one(
            "SELECT 1 FROM turns WHERE id = ? AND chat = ?", (number, id_of_chat)
        )
        if found is None:
            raise _no_turn()

    def _row(self, id_of_chat: str) -> Any:
        row = self._database.one("SELECT * FROM chats WHERE id = ?", (id_of_chat,))
        if row is None:
            raise UsageError(
                _("There is no such chat."),
                why=_("It may have been deleted on another page."),
                fix=_("Load the list again."),
            )
        return row


def conversation_of(turns: Sequence[KeptTurn]) -> Conversation:
    """Return turns as the conversation that they are."""
    return Conversation(messages=tuple(_message(turn) for turn in turns))


def _message(turn: KeptTurn) -> Message:
    if turn.role != "assistant":
        role: Role = "tool" if turn.role == "tool" else "user"
        return Message(role=role, content=turn.content)
    calls = [call["function"] for call in turn.tool_calls]
    return Message(
        role="assistant",
        content=turn.content,
        reasoning=turn.reasoning,
        tool_calls=tuple(
            ToolCall(name=call["name"], arguments=call["arguments"]) for call in calls
        ),
    )


def _turn(row: Any) -> KeptTurn:
    fields = {name: row[name] for name in tuple(row.keys()) if name != "chat"}
    for name in ("tool_calls", "facts"):
        fields[name] = json.loads(fields[name])
    return KeptTurn(**fields)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _no_turn() -> UsageError:
    return UsageError(
        _("There is no such message."),
        why=_("It may have been deleted on another page."),
        fix=_("Load the chat again."),
    )
