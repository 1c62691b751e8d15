"""Answers that are being computed: they go on without the page, and are kept as they arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request

from danlu.server.edge.http_errors import api_error_of
from danlu.web.answering import AnswerChoice, answer
from danlu.web.chats.kept_chats import KeptChats, TurnState, conversation_of
from danlu.web.event_log import EventLog
from danlu.web.studio import studio_of

Json = dict[str, Any]
# What has arrived is written to the database this often.
_WRITE_EVERY_S = 1.0


def name_of_answer(turn: int) -> str:
    """Name the work behind an answer's turn."""
    return f"turn {turn}"


def begin_answer(request: Request, chat: str, question: int, choice: AnswerChoice) -> int:
    """Begin the answer to a question; return its turn. Raises UsageError for one not there."""
    studio = studio_of(request)
    chats = KeptChats(studio.database)
    conversation = conversation_of(chats.branch(chat, question))
    facts = {"voice": choice.voice, "strength": choice.strength}
    turn = chats.add(
        chat, before=question, role="assistant", content="", state="running", facts=facts
    )
    running = _RunningAnswer(chats, turn, facts, studio.log_of(name_of_answer(turn)))
    events = answer(studio, request.app, conversation, choice)
    studio.begin(name_of_answer(turn), running.run(events))
    return turn


class _RunningAnswer:
    """One answer on its way into its log and the database."""

    def __init__(self, chats: KeptChats, turn: int, facts: Json, log: EventLog) -> None:
        self.log = log
        self._chats, self._turn, self._facts = chats, turn, facts
        self._thought, self._text = "", ""
        self._calls: list[Json] = []

    async def run(self, events: AsyncGenerator[Json, None]) -> None:
        state: TurnState = "failed"
        written = time.monotonic()
        try:
            async with aclosing(events):
                async for event in events:
                    self.log.add(event)
                    self._take(event)
                    if time.monotonic() > written + _WRITE_EVERY_S:
                        await asyncio.to_thread(self._write, "running")
                        written = time.monotonic()
            state = "done"
        except asyncio.CancelledError:
            state = "stopped"
        except Exception as problem:
            name = name_of_answer(self._turn)
            self._facts["error"] = api_error_of(problem, name, in_engine=True).message
            self.log.add({"kind": "error", "message": self._facts["error"]})
        finally:
            await self._close(state)

    async def _close(self, state: TurnState) -> None:
        """Write what it came to; whoever follows it is told the end, even where that fails."""
        try:
            await asyncio.shield(asyncio.to_thread(self._write, state))
        except Exception as problem:
            self._facts["error"] = api_error_of(problem, name_of_answer(self._turn)).message
            state = "failed"
        finally:
            self.log.add({"kind": "state", "state": state, "facts": self._facts})
            self.log.end()

    def _take(self, event: Json) -> None:
        kind = event["kind"]
        if kind == "thought":
            self._thought += event["text"]
            self._facts["thought_s"] = event["s"]
        elif kind == "text":
            self._text += event["text"]
        elif kind == "call":
            self._calls.append(event["call"])
        elif kind == "end":
            self._facts |= {name: value for name, value in event.items() if name != "kind"}

    def _write(self, state: TurnState) -> None:
        self._chats.write_answer(
            self._turn,
            content=self._text,
            reasoning=self._thought,
            tool_calls=self._calls,
            state=state,
            facts=self._facts,
        )
