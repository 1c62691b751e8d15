"""Routes of the chat: the list, a chat, its answers as streams that survive a reload."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from danlu.engine.admission import ContextExceeded
from danlu.errors import DanluError
from danlu.language import _
from danlu.server.edge.gate import serving_of
from danlu.server.edge.http_errors import ApiError, api_error_of
from danlu.text.conversation import Message
from danlu.text.tokenizer import TextTooLong
from danlu.web.answering import AnswerChoice, prepare
from danlu.web.chats.exchange import Form, keep, written
from danlu.web.chats.kept_chats import KeptChats, conversation_of
from danlu.web.chats.running_answers import begin_answer, name_of_answer
from danlu.web.event_log import EventLog, seen_before, stream
from danlu.web.studio import studio_of

router = APIRouter(prefix="/studio/chats")
Json = dict[str, Any]
_LONGEST_TEXT = 2_000_000
# Of a turn, as the database counts them.
_Number = Annotated[int, Field(ge=1, le=2**63 - 1)]


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
    shown: _Number | None = None


class ChatQuestion(_Body):
    """What the user says. before: the turn that it follows."""

    content: Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT)]
    before: _Number | None = None
    settings: AnswerChoice


class Again(_Body):
    """A further answer to a question, perhaps by another voice."""

    question: _Number
    settings: AnswerChoice


class CallResults(_Body):
    """What the tools have returned that an answer has called, in the order of its calls."""

    answer: _Number
    results: Annotated[list[Annotated[str, Field(max_length=_LONGEST_TEXT)]], Field(min_length=1)]
    settings: AnswerChoice


class CorrectedAnswer(_Body):
    """What an answer should have been; it becomes a branch beside the answer."""

    answer: _Number
    content: Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT)]
    reasoning: Annotated[str, Field(max_length=_LONGEST_TEXT)] = ""


class Import(_Body):
    """One chat of a file, in whatever form."""

    chat: Any
    settings: AnswerChoice = AnswerChoice()


class Counting(_Body):
    """What would be asked. content: the draft; before: the turn that it follows."""

    content: Annotated[str, Field(max_length=_LONGEST_TEXT)] = ""
    before: _Number | None = None
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


@router.post("/import")
async def import_chat(body: Import, request: Request) -> Json:
    """Keep a chat of a file of this or another program."""
    chats, settings = _chats(request), body.settings.model_dump()
    return {"id": await asyncio.to_thread(keep, chats, body.chat, settings)}


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
        studio.stop(name_of_answer(turn.id))
    chats.delete(chat)
    return {}


@router.post("/{chat}/ask")
async def ask(chat: str, body: ChatQuestion, request: Request) -> Json:
    """Add what the user says, and begin its answer."""
    serving_of(request.app)
    chats = _chats(request)
    question = chats.add(chat, before=body.before, role="user", content=body.content)
    chats.change(chat, draft="", settings=body.settings.model_dump())
    return {"question": question, "answer": begin_answer(request, chat, question, body.settings)}


@router.post("/{chat}/again")
async def again(chat: str, body: Again, request: Request) -> Json:
    """Answer a question once more, beside the answers that it has."""
    serving_of(request.app)
    if _chats(request).branch(chat, body.question)[-1].role == "assistant":
        raise ApiError(400, _("Only a question can be answered again."), param="question")
    return {"answer": begin_answer(request, chat, body.question, body.settings)}


@router.post("/{chat}/results")
async def give_results(chat: str, body: CallResults, request: Request) -> Json:
    """Add what the called tools have returned, and begin the answer that follows."""
    serving_of(request.app)
    chats = _chats(request)
    answer = chats.branch(chat, body.answer)[-1]
    if answer.state == "running":
        raise ApiError(400, _("This answer is still being written."), param="answer")
    if len(answer.tool_calls) != len(body.results):
        message = _("The answer has called {count} tools.").format(count=len(answer.tool_calls))
        raise ApiError(400, message, param="results")
    turns = [body.answer]
    for result in body.results:
        turns.append(chats.add(chat, before=turns[-1], role="tool", content=result))
    return {"results": turns[1:], "answer": begin_answer(request, chat, turns[-1], body.settings)}


@router.post("/{chat}/correct")
async def correct(chat: str, body: CorrectedAnswer, request: Request) -> Json:
    """Put a corrected answer beside the one that was given."""
    chats = _chats(request)
    answer = chats.branch(chat, body.answer)[-1]
    if answer.role != "assistant":
        raise ApiError(400, _("Only an answer can be corrected."), param="answer")
    turn = chats.add(
        chat,
        before=answer.before,
        role="assistant",
        content=body.content,
        reasoning=body.reasoning,
        facts={**answer.facts, "corrected": answer.id},
    )
    return {"answer": turn}


@router.get("/{chat}/export")
async def export_chat(chat: str, request: Request, form: Form = "danlu") -> Response:
    """Give a chat as a file."""
    chats = _chats(request)
    whole, turns = chats.whole(chat), chats.turns(chat)
    content = await asyncio.to_thread(written, whole, turns, form)
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False, indent=1)
    ending = "md" if form == "markdown" else "json"
    name = quote(f"{whole['title'][:60] or 'chat'}.{ending}", safe="")
    return Response(
        content,
        media_type="text/markdown" if ending == "md" else "application/json",
        headers={"content-disposition": f"attachment; filename*=UTF-8''{name}"},
    )


@router.post("/{chat}/count")
async def count(chat: str, body: Counting, request: Request) -> Json:
    """Count the tokens that a question would have, with all before it; and the room there is.

    What cannot be asked is an answer as well: too long, or by a voice that is gone.
    """
    studio, serving = studio_of(request), serving_of(request.app)

    def counted() -> int:
        conversation = conversation_of(_chats(request).branch(chat, body.before))
        question = Message(role="user", content=body.content)
        asked = type(conversation)(messages=(*conversation.messages, question))
        return len(prepare(studio, serving, asked, body.settings).request.prompt)

    try:
        tokens = await asyncio.to_thread(counted)
    except (DanluError, ApiError) as problem:
        return {
            "tokens": None,
            "context": serving.context_tokens,
            "is_too_long": isinstance(problem, (TextTooLong, ContextExceeded)),
            "problem": api_error_of(problem, "").message,
        }
    return {"tokens": tokens, "context": serving.context_tokens}


@router.get("/answers/{turn}/events")
async def follow(turn: int, request: Request) -> Response:
    """Stream an answer, from its beginning or from where a page has lost it."""
    log = studio_of(request).answers.get(name_of_answer(turn))
    if log is None:
        log = EventLog()
        log.end()
    return stream(request, log.follow(seen_before(request)))


@router.post("/answers/{turn}/stop")
async def stop(turn: int, request: Request) -> Json:
    """Stop an answer; what has arrived stays."""
    return {"stopped": studio_of(request).stop(name_of_answer(turn))}


def _chats(request: Request) -> KeptChats:
    return KeptChats(studio_of(request).database)
