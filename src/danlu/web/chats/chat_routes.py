"""Routes of the chat: the list, a chat, its answers as streams that survive a reload."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from danlu.errors import DanluError
from danlu.language import _
from danlu.server.edge.gate import serving_of
from danlu.server.edge.http_errors import ApiError, api_error_of
from danlu.text.conversation import Message
from danlu.web.answering import AnswerChoice, answer, prepare
from danlu.web.chats.kept_chats import KeptChats, conversation_of
from danlu.web.event_log import EventLog, seen_before, stream
from danlu.web.studio import Studio, studio_of

router = APIRouter(prefix="/studio/chats")
Json = dict[str, Any]
# A running answer is written to the database this often.
_WRITE_EVERY_S = 1.0
_LONGEST_TEXT = 2_000_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewChat(_Body):
    """A chat that begins. settings: who answers, and how."""

    settings: AnswerChoice = AnswerChoice()


class ChatChange(_Body):
    """What is to be changed; the rest stays."""

    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    draft: Annotated[str, Field(max_length=_LONGEST_TEXT)] | None = None
    settings: AnswerChoice | None = None
    shown: int | None = None


class Question(_Body):
    """What the user says. before: the turn that it follows."""

    content: Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT)]
    before: int | None = None
    settings: AnswerChoice


class Again(_Body):
    """A further answer to a question, perhaps by another voice."""

    question: int
    settings: AnswerChoice


class Counting(_Body):
    """What would be asked. content: the draft; before: the turn that it follows."""

    content: Annotated[str, Field(max_length=_LONGEST_TEXT)] = ""
    before: int | None = None
    settings: AnswerChoice


@router.get("")
async def list_chats(request: Request, search: str = "", before: float | None = None) -> list[Json]:
    """List chats, the latest first, or those in which a text stands."""
    return await asyncio.to_thread(_chats(request).titles, search[:200], before=before)


@router.post("")
async def create_chat(body: NewChat, request: Request) -> Json:
    """Begin a chat."""
    chats = _chats(request)
    return chats.whole(chats.create(body.settings.model_dump()))


@router.get("/{chat}")
async def show_chat(chat: str, request: Request) -> Json:
    """Show a chat with all its turns."""
    return await asyncio.to_thread(_chats(request).whole, chat)


@router.patch("/{chat}")
async def change_chat(chat: str, body: ChatChange, request: Request) -> Json:
    """Change title, draft, settings or the branch that is shown."""
    values = body.model_dump(exclude_unset=True, exclude_none=True)
    if values:
        _chats(request).change(chat, **values)
    return {}


@router.delete("/{chat}")
async def delete_chat(chat: str, request: Request) -> Json:
    """Delete a chat; its running answers end."""
    studio, chats = studio_of(request), _chats(request)
    for turn in chats.turns(chat):
        studio.stop(_name(turn.id))
    chats.delete(chat)
    return {}


@router.post("/{chat}/ask")
async def ask(chat: str, body: Question, request: Request) -> Json:
    """Add what the user says, and begin its answer."""
    serving_of(request.app)
    chats = _chats(request)
    question = chats.add(chat, before=body.before, role="user", content=body.content)
    chats.change(chat, draft="", settings=body.settings.model_dump())
    return {"question": question, "answer": _begin(request, chat, question, body.settings)}


@router.post("/{chat}/again")
async def again(chat: str, body: Again, request: Request) -> Json:
    """Answer a question once more, beside the answers that it has."""
    serving_of(request.app)
    if _chats(request).branch(chat, body.question)[-1].role != "user":
        raise ApiError(400, _("Only a question can be answered again."), param="question")
    return {"answer": _begin(request, chat, body.question, body.settings)}


@router.post("/{chat}/count")
async def count(chat: str, body: Counting, request: Request) -> Json:
    """Count the tokens that a question would have, with all before it; and the room there is."""
    studio, serving = studio_of(request), serving_of(request.app)

    def counted() -> int:
        conversation = conversation_of(_chats(request).branch(chat, body.before))
        question = Message(role="user", content=body.content)
        asked = type(conversation)(messages=(*conversation.messages, question))
        return len(prepare(studio, serving, asked, body.settings).request.prompt)

    try:
        tokens = await asyncio.to_thread(counted)
    except DanluError as problem:
        error = api_error_of(problem, "")
        return {"tokens": None, "context": serving.context_tokens, "problem": error.message}
    return {"tokens": tokens, "context": serving.context_tokens}


@router.get("/answers/{turn}/events")
async def follow(turn: int, request: Request) -> Response:
    """Stream an answer, from its beginning or from where a page has lost it."""
    log = studio_of(request).answers.get(_name(turn))
    if log is None:
        log = EventLog()
        log.end()
    return stream(request, log.follow(seen_before(request)))


@router.post("/answers/{turn}/stop")
async def stop(turn: int, request: Request) -> Json:
    """Stop an answer; what has arrived stays."""
    return {"stopped": studio_of(request).stop(_name(turn))}


def _begin(request: Request, chat: str, question: int, choice: AnswerChoice) -> int:
    """Begin an answer, which goes on whether or not a page follows it."""
    studio, chats = studio_of(request), _chats(request)
    conversation = conversation_of(chats.branch(chat, question))
    facts = {"voice": choice.voice, "strength": choice.strength}
    turn = chats.add(
        chat, before=question, role="assistant", content="", state="running", facts=facts
    )
    log = studio.answers[_name(turn)] = EventLog()
    events = answer(studio, request.app, conversation, choice)
    studio.begin(_name(turn), _run(studio, chats, turn, events, log, facts))
    return turn


async def _run(
    studio: Studio, chats: KeptChats, turn: int, events: Any, log: EventLog, facts: Json
) -> None:
    """Take an answer's events into its log, and what they add up to into the database."""
    parts: dict[str, list[str]] = {"thought": [], "text": []}
    calls: list[Json] = []
    state, written = "failed", time.monotonic()

    def write(state: Any) -> None:
        chats.write_answer(
            turn,
            content="".join(parts["text"]),
            reasoning="".join(parts["thought"]),
            tool_calls=calls,
            state=state,
            facts=facts,
        )

    try:
        async for event in events:
            log.add(event)
            kind = event["kind"]
            if kind in parts:
                parts[kind].append(event["text"])
                if kind == "thought":
                    facts["thought_s"] = event["s"]
            elif kind == "call":
                calls.append(event["call"])
            elif kind == "end":
                facts |= {name: value for name, value in event.items() if name != "kind"}
            if time.monotonic() > written + _WRITE_EVERY_S:
                await asyncio.to_thread(write, "running")
                written = time.monotonic()
        state = "done"
    except asyncio.CancelledError:
        state = "stopped"
    except Exception as problem:
        facts["error"] = api_error_of(problem, f"turn {turn}", in_engine=True).message
        log.add({"kind": "error", "message": facts["error"]})
    finally:
        await events.aclose()
        write(state)
        log.add({"kind": "state", "state": state})
        log.end()
        studio.answers.pop(_name(turn), None)


def _name(turn: int) -> str:
    return f"turn {turn}"


def _chats(request: Request) -> KeptChats:
    return KeptChats(studio_of(request).database)
