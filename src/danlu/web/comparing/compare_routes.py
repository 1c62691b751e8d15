"""Routes of comparisons: base and adapters side by side, with one seed; the votes are kept."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from danlu.language import _
from danlu.server.edge.gate import serving_of
from danlu.server.edge.http_errors import ApiError, api_error_of
from danlu.text.conversation import Conversation, Message
from danlu.web.answering import AnswerChoice, answer
from danlu.web.database import Database
from danlu.web.event_log import EventLog, seen_before, stream
from danlu.web.studio import Studio, studio_of

router = APIRouter(prefix="/studio/compare")
Json = dict[str, Any]
_MOST_LISTED = 200


class Comparing(BaseModel):
    """What is asked, and who answers: two to four voices, each with the same seed."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    choices: Annotated[list[AnswerChoice], Field(min_length=2, max_length=4)]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 1


class Vote(BaseModel):
    """Which column was best; None: none of them, or all alike."""

    model_config = ConfigDict(extra="forbid")

    column: Annotated[int, Field(ge=0, le=3)] | None


@router.post("")
async def begin(body: Comparing, request: Request) -> Json:
    """Ask all voices; their answers come together in one stream."""
    serving_of(request.app)
    studio, name = studio_of(request), secrets.token_hex(8)
    choices = [choice.model_copy(update={"seed": body.seed}) for choice in body.choices]
    settings = {"seed": body.seed, "choices": [choice.model_dump() for choice in choices]}
    studio.database.change(
        "INSERT INTO comparisons (id, created, prompt, settings, answers) VALUES (?, ?, ?, ?, ?)",
        (name, time.time(), body.prompt, _json(settings), "[]"),
    )
    log = studio.log_of(_work(name))
    studio.begin(_work(name), _run(studio, request.app, name, body.prompt, choices, log))
    return {"id": name}


@router.get("")
async def list_comparisons(request: Request) -> list[Json]:
    """List comparisons, the latest first, with their votes."""
    rows = await asyncio.to_thread(
        studio_of(request).database.all,
        "SELECT id, created, substr(prompt, 1, 200) AS prompt, settings, vote FROM comparisons "
        f"ORDER BY created DESC LIMIT {_MOST_LISTED}",
    )
    return [_record(row) for row in rows]


@router.get("/{name}")
async def show(name: str, request: Request) -> Json:
    """Show a comparison with its answers."""
    row = studio_of(request).database.one("SELECT * FROM comparisons WHERE id = ?", (name,))
    if row is None:
        raise _gone()
    return {**_record(row), "answers": json.loads(row["answers"])}


@router.get("/{name}/events")
async def follow(name: str, request: Request) -> Response:
    """Stream the answers; each event names its column."""
    log = studio_of(request).answers.get(_work(name))
    if log is None:
        log = EventLog()
        log.end()
    return stream(request, log.follow(seen_before(request)))


@router.post("/{name}/stop")
async def stop(name: str, request: Request) -> Json:
    """Stop all answers; what has arrived stays."""
    return {"stopped": studio_of(request).stop(_work(name))}


@router.post("/{name}/vote")
async def vote(name: str, body: Vote, request: Request) -> Json:
    """Keep which answer was best."""
    database = studio_of(request).database
    if database.one("SELECT 1 FROM comparisons WHERE id = ?", (name,)) is None:
        raise _gone()
    database.change("UPDATE comparisons SET vote = ? WHERE id = ?", (_json(body.column), name))
    return {}


@router.delete("/{name}")
async def delete(name: str, request: Request) -> Json:
    """Forget a comparison."""
    studio = studio_of(request)
    studio.stop(_work(name))
    studio.database.change("DELETE FROM comparisons WHERE id = ?", (name,))
    return {}


async def _run(
    studio: Studio,
    app: Any,
    name: str,
    prompt: str,
    choices: list[AnswerChoice],
    log: EventLog,
) -> None:
    answers: list[Json] = [{"thought": "", "text": "", "facts": {}} for _choice in choices]
    conversation = Conversation(messages=(Message(role="user", content=prompt),))

    async def column(place: int) -> None:
        kept = answers[place]
        try:
            async with aclosing(answer(studio, app, conversation, choices[place])) as events:
                async for event in events:
                    log.add({"column": place, **event})
                    if event["kind"] in ("thought", "text"):
                        kept[event["kind"]] += event["text"]
                    elif event["kind"] == "end":
                        kept["facts"] = {key: event[key] for key in event if key != "kind"}
        except Exception as problem:
            kept["error"] = api_error_of(problem, _work(name), in_engine=True).message
            log.add({"column": place, "kind": "error", "message": kept["error"]})

    try:
        await asyncio.gather(*(column(place) for place in range(len(choices))))
    finally:
        try:
            await asyncio.shield(asyncio.to_thread(_keep, studio.database, name, answers))
        finally:
            log.end()


def _keep(database: Database, name: str, answers: list[Json]) -> None:
    database.change("UPDATE comparisons SET answers = ? WHERE id = ?", (_json(answers), name))


def _record(row: Any) -> Json:
    vote = json.loads(row["vote"]) if row["vote"] else None
    return {
        "id": row["id"],
        "created": row["created"],
        "prompt": row["prompt"],
        "vote": vote,
        "has_vote": row["vote"] is not None,
        **json.loads(row["settings"]),
    }


def _work(name: str) -> str:
    return f"comparison {name}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _gone() -> ApiError:
    return ApiError(404, _("There is no such comparison."), code="not_found")
