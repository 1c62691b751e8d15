"""Routes of training: the form, its plan, and the queue."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from danlu.errors import DataError, UsageError
from danlu.language import joined
from danlu.web.data.registered import listed_sets
from danlu.web.studio import Studio, studio_of
from danlu.web.training.planned_training import planned, startable
from danlu.web.training.queue import MOST_WAITING
from danlu.web.training.settings_form import training_form
from danlu.web.training.training_choice import TrainingChoice, free_name, trainable_models

router = APIRouter(prefix="/studio/training")
Json = dict[str, Any]
_log = logging.getLogger(__name__)
_Id = Annotated[str, Field(max_length=64)]


class QueueOrder(BaseModel):
    """Trainings that wait, in the order in which they are to come."""

    model_config = ConfigDict(extra="forbid")

    entries: Annotated[list[_Id], Field(max_length=MOST_WAITING)]


@router.get("/form")
async def show_form(request: Request) -> Json:
    """Describe every setting, the presets, and what can be chosen by name."""
    studio = studio_of(request)

    def form() -> Json:
        return {
            **training_form(),
            "models": trainable_models(studio),
            "sets": listed_sets(studio),
        }

    return await asyncio.to_thread(form)


@router.get("/name")
async def propose_name(request: Request, wanted: str = "run") -> Json:
    """Propose a name for a run that no other has."""
    studio = studio_of(request)

    def proposed() -> str:
        waiting = {entry.folder.name for entry in studio.queue.shown() if not entry.is_over}
        return free_name(wanted[:100], waiting)

    return {"name": await asyncio.to_thread(proposed)}


@router.post("/plan")
async def plan(body: TrainingChoice, request: Request) -> Json:
    """Say what a training would take; of several at once only the newest is planned.

    What cannot be planned as it stands is an answer as well, `refusal`: one is still typing.
    """
    studio = studio_of(request)
    try:
        found = await studio.plans.newest(lambda: planned(studio, body))
    except (UsageError, DataError) as problem:
        text = joined(problem.what, problem.why)
        return {"refusal": await asyncio.to_thread(_in_page_words, studio, body, text)}
    return {"is_overtaken": True} if found is None else found


@router.get("/queue")
async def show_queue(request: Request) -> list[Json]:
    """List the trainings that run and wait, then those that have ended."""
    studio = studio_of(request)
    return [entry.fields() for entry in await asyncio.to_thread(studio.queue.shown)]


@router.post("/queue")
async def add_to_queue(body: TrainingChoice, request: Request) -> Json:
    """Add a training; it starts at once where none runs."""
    studio = studio_of(request)

    def add() -> Json:
        training = startable(studio, body)
        return studio.queue.add(training.given, training.folder).fields()

    added = await asyncio.to_thread(add)
    await advanced(studio)
    return added


@router.post("/queue/order")
async def order_queue(body: QueueOrder, request: Request) -> Json:
    """Let those that wait come in another order."""
    await asyncio.to_thread(studio_of(request).queue.order, body.entries)
    return {}


@router.delete("/queue/{entry}")
async def remove_from_queue(entry: str, request: Request) -> Json:
    """Take out a training that waits or has ended; the run's folder stays."""
    await asyncio.to_thread(studio_of(request).queue.remove, entry)
    return {}


def _in_page_words(studio: Studio, choice: TrainingChoice, text: str) -> str:
    """Name the data sets as the page does, instead of the files in which the server keeps them."""
    for known in studio.data.all():
        if known.id in (choice.dataset, choice.eval_dataset):
            text = known.in_page_words(text)
    return text


async def advanced(studio: Studio) -> None:
    """Let the queue start what it can, at once; what was added stays where that fails."""
    try:
        await asyncio.to_thread(studio.queue.advance)
    except Exception:
        _log.exception("the queue of trainings could not be looked after")
