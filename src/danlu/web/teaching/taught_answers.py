"""Corrected answers: rows in one file that `danlu train` reads as it is, and where each came from.

The file is the truth; the database says when and in which chat a row was taught. Rows that somebody
else has added to the file are shown too.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.data.findings import BadRow
from danlu.data.formats.recognise import format_of_messages
from danlu.errors import UsageError
from danlu.files.atomic import append_line, atomic_write, make_folder
from danlu.files.os_errors import readable
from danlu.files.regular import open_regular
from danlu.language import _
from danlu.text.conversation import Conversation, Message, message_fields
from danlu.text.render import split_reasoning
from danlu.web.chats.kept_chats import KeptChats, KeptTurn, conversation_of
from danlu.web.data.data_folders import taught_file
from danlu.web.database import Database
from danlu.workflows.taught_rows import taught_row

Json = dict[str, Any]
MOST_LISTED = 1000
_writing = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class TaughtLine:
    """A line of the file. row: None where it is none of ours."""

    id: str
    text: str
    row: Json | None

    @property
    def messages(self) -> Sequence[Json]:
        """The row's messages; none where it is none of ours."""
        return self.row["messages"] if self.row else ()


class TaughtAnswers:
    """Reads and writes taught rows. Raises UsageError for one that is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def teach(self, chat: str, number: int, content: str, reasoning: str, model: str) -> str:
        """Keep a corrected answer as a row with its conversation; return its id.

        chat, number: the chat, and the turn with the answer that was wrong. Teaching it once more
        replaces the row. model: the one that is loaded. Raises UsageError.
        """
        chats = KeptChats(self._database)
        turns = chats.branch(chat, number)
        answer = _corrected(turns, content, reasoning)
        messages = (*conversation_of(_answered(turns[:-1])).messages, answer)
        settings = chats.whole(chat)["settings"]
        taught = Conversation.framed(
            messages, system=settings.get("system", ""), tools=settings.get("tools", ())
        )
        id_of_row, row = secrets.token_hex(8), _learnable(taught_row(taught))
        with _writing:
            before = self._database.one(
                "SELECT id FROM taught WHERE chat = ? AND turn = ?", (chat, number)
            )
            known = {line.id for line in _lines()}
            if before is not None and before["id"] in known:
                id_of_row = before["id"]
                self._rewrite(id_of_row, {"id": id_of_row, **row})
            else:
                make_folder(taught_file().parent)
                append_line(taught_file(), _text({"id": id_of_row, **row}))
            self._database.change(
                "INSERT OR REPLACE INTO taught (id, created, chat, turn, voice, model) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    id_of_row, time.time(), chat, number,
                    str(turns[-1].facts.get("voice") or "base"), model,
                ),
            )  # fmt: skip
        return id_of_row

    def all(self) -> list[Json]:
        """Return the rows for a page, the latest first, each with where it came from."""
        records = self._records()
        titles = {
            row["id"]: row["title"] for row in self._database.all("SELECT id, title FROM chats")
        }
        rows = [_shown(line, records.get(line.id, {}), titles) for line in _lines()]
        return rows[::-1]

    def last(self) -> Json | None:
        """Return what is known of the row that was taught last: voice and model."""
        records = self._records()
        known = [records[line.id] for line in _lines() if line.id in records]
        return max(known, key=lambda record: record["created"], default=None)

    def texts(self) -> list[str]:
        """Return the file's lines."""
        return [line.text for line in _lines()]

    def edit(self, id_of_row: str, content: str, reasoning: str) -> None:
        """Correct a taught answer once more."""
        with _writing:
            line = _line(id_of_row)
            if line.row is None:
                raise UsageError(
                    _("This row cannot be edited here."),
                    why=_("It was not taught in a chat."),
                    fix=_("Delete it, or edit the file: {path}").format(path=taught_file().name),
                )
            answer = _answer(content, reasoning)
            row = {**line.row, "messages": [*line.messages[:-1], message_fields(answer)]}
            self._rewrite(id_of_row, _learnable(row))

    def delete(self, id_of_row: str) -> None:
        """Remove a row from the file."""
        with _writing:
            _line(id_of_row)
            self._rewrite(id_of_row, None)
            self._database.change("DELETE FROM taught WHERE id = ?", (id_of_row,))

    def _records(self) -> dict[str, Json]:
        return {row["id"]: dict(row) for row in self._database.all("SELECT * FROM taught")}

    def _rewrite(self, id_of_row: str, row: Json | None) -> None:
        """Put another row in a row's place, or none."""
        texts = [
            line.text if line.id != id_of_row else _text(row)
            for line in _lines()
            if line.id != id_of_row or row is not None
        ]
        atomic_write(taught_file(), "".join(f"{text}\n" for text in texts))


def _corrected(turns: Sequence[KeptTurn], content: str, reasoning: str) -> Message:
    if not turns or turns[-1].role != "assistant":
        raise UsageError(
            _("Only an answer can be corrected."),
            why=_("This message is none."),
            fix=_("Choose an answer."),
        )
    if turns[-1].state == "running":
        raise UsageError(
            _("This answer is still being written."),
            why=_("Only what is complete can be corrected."),
            fix=_("Wait for its end, or stop it."),
        )
    return _answer(content, reasoning)


def _answered(turns: Sequence[KeptTurn]) -> list[KeptTurn]:
    """Leave out earlier questions whose answer failed before it said anything."""
    kept: list[KeptTurn] = []
    for turn in turns:
        if turn.role == "assistant" and not (turn.content.strip() or turn.tool_calls):
            while kept and kept[-1].role != "assistant":
                kept.pop()
        else:
            kept.append(turn)
    return kept


def _learnable(row: Json) -> Json:
    """Return a row that training takes. Raises UsageError, as the data doctor finds it."""
    found = format_of_messages(row)
    try:
        if found is not None:
            found[0].read_row(row)
    except BadRow as problem:
        raise UsageError(
            _("This conversation cannot be learned."), why=problem.what, fix=problem.fix
        ) from None
    return row


def _answer(content: str, reasoning: str) -> Message:
    if not reasoning:
        thought, content = split_reasoning(content)
        reasoning = thought or ""
    if not content.strip():
        raise UsageError(
            _("The corrected answer is empty."),
            why=_("There would be nothing to learn."),
            fix=_("Write the answer that you want."),
        )
    try:
        (content + reasoning).encode()
    except UnicodeEncodeError:
        raise UsageError(
            _("The corrected answer holds half a character."),
            why=_("Such text cannot be learned."),
            fix=_("Write it anew."),
        ) from None
    return Message(role="assistant", content=content, reasoning=reasoning)


def _lines() -> Iterator[TaughtLine]:
    """Yield the file's lines that hold something."""
    if not taught_file().is_file():
        return
    with readable(taught_file()), open_regular(taught_file()) as file:
        for data in file.read().split(b"\n"):
            text = data.decode("utf-8", "replace").rstrip("\r")
            if text.strip():
                row = _row_of(text)
                given = row.get("id") if row else None
                if not isinstance(given, str) or not given:
                    given = hashlib.blake2b(data, digest_size=8).hexdigest()
                yield TaughtLine(id=given, text=text, row=row)


def _line(id_of_row: str) -> TaughtLine:
    for line in _lines():
        if line.id == id_of_row:
            return line
    raise UsageError(
        _("There is no such taught row."),
        why=_("It may have been deleted on another page."),
        fix=_("Load the page again."),
    )


def _row_of(text: str) -> Json | None:
    """Return a line's row where it holds messages that end with an answer."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    messages = row.get("messages") if isinstance(row, dict) else None
    is_ours = (
        isinstance(messages, list)
        and messages
        and all(
            isinstance(message, dict) and isinstance(message.get("content"), str)
            for message in messages
        )
        and messages[-1].get("role") == "assistant"
    )
    return row if is_ours else None


def _shown(line: TaughtLine, record: Mapping[str, Any], titles: Mapping[str, str]) -> Json:
    messages = line.messages
    asked = [str(message["content"]) for message in messages if message.get("role") == "user"]
    answer = messages[-1] if messages else {}
    chat = record.get("chat", "")
    return {
        "id": line.id,
        "question": _plain(asked[-1] if asked else ""),
        "content": _plain(str(answer.get("content", ""))),
        "reasoning": _plain(str(answer.get("reasoning_content") or "")),
        "messages": len(messages),
        "text": "" if line.row else _plain(line.text[:2000]),
        "created": record.get("created"),
        "chat": chat if chat in titles else "",
        "chat_title": titles.get(chat, ""),
        "turn": record.get("turn"),
        "voice": record.get("voice", ""),
        "model": record.get("model", ""),
    }


def _text(row: Json | None) -> str:
    return json.dumps(row, ensure_ascii=False)


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
