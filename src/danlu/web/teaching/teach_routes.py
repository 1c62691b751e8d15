"""Routes of teaching: corrected answers, the rows they became, and what a training of them needs.

`POST /studio/teach` is what the chat calls: {"chat", "turn", "content"}, where `turn` is the answer
that was wrong and `content` what it should have said; a thought stands in `reasoning`, or inside
of <think> at the beginning of `content`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from danlu.errors import DanluError, UsageError
from danlu.hub.names import default_name
from danlu.language import _
from danlu.runs.manifest import read_manifest
from danlu.server.state import state_of
from danlu.web.available_voices import BASE, RUN, run_folder
from danlu.web.data.registered import dataset_words, learned_set
from danlu.web.studio import Studio, studio_of
from danlu.web.teaching.taught_answers import MOST_LISTED, TaughtAnswers
from danlu.web.teaching.taught_mix import write_mix
from danlu.web.teaching.taught_runs import PREFIX, free_name, old_voice, taught_runs
from danlu.workflows.taught_rows import recipe

router = APIRouter(prefix="/studio/teach")
Json = dict[str, Any]
# A run that went on with a run that went on: so far back is looked for what was learned first.
_MOST_GENERATIONS = 20
_Text = Annotated[str, Field(max_length=1_000_000)]


class _TeachBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Correction(_TeachBody):
    """An answer as it should have been. turn: the answer's number in the chat."""

    chat: Annotated[str, Field(max_length=64)]
    turn: int
    content: _Text
    reasoning: _Text = ""


class TaughtEdit(_TeachBody):
    """What a taught answer shall say instead."""

    content: _Text
    reasoning: _Text = ""


class TeachPlan(_TeachBody):
    """How taught rows are trained on. replay: the share of older rows, from the set `dataset`."""

    replay: Annotated[float, Field(ge=0, le=0.95)] = 0.5
    dataset: Annotated[str, Field(max_length=64)] | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,50}$")] | None = None


@router.post("")
async def teach(body: Correction, request: Request) -> Json:
    """Keep a corrected answer as a row."""
    answers, model = _answers(request), _loaded_model(request)
    id_of_row = await asyncio.to_thread(
        answers.teach, body.chat, body.turn, body.content, body.reasoning, model
    )
    count = len(await asyncio.to_thread(answers.all))
    return {"id": id_of_row, "count": count}


@router.get("")
async def list_taught(request: Request) -> Json:
    """List the rows, the latest first, and the runs that have learned such rows.

    older: the data set that whoever was corrected last has learned, to be repeated beside them.
    """
    answers, studio = _answers(request), studio_of(request)
    rows, runs, older = await asyncio.gather(
        asyncio.to_thread(answers.all),
        asyncio.to_thread(taught_runs),
        asyncio.to_thread(lambda: _learned(studio, (answers.last() or {}).get("voice", BASE))),
    )
    return {"rows": rows[:MOST_LISTED], "total": len(rows), "runs": runs, "older": older}


@router.patch("/{id_of_row}")
async def edit(id_of_row: str, body: TaughtEdit, request: Request) -> Json:
    """Correct a taught answer once more."""
    await asyncio.to_thread(_answers(request).edit, id_of_row, body.content, body.reasoning)
    return {}


@router.delete("/{id_of_row}")
async def delete(id_of_row: str, request: Request) -> Json:
    """Delete a taught row."""
    await asyncio.to_thread(_answers(request).delete, id_of_row)
    return {}


@router.post("/plan")
async def plan(body: TeachPlan, request: Request) -> Json:
    """Write what shall be learned; return the training to put into the queue, by listed names."""
    return await asyncio.to_thread(_planned, body, request)


def _planned(body: TeachPlan, request: Request) -> Json:
    studio, answers = studio_of(request), _answers(request)
    words = dataset_words(studio, body.dataset) if body.dataset else None
    last = answers.last() or {"voice": BASE, "model": ""}
    model, run = _learner(last["voice"], last["model"], request)
    mix = write_mix(answers.texts(), words, body.replay)
    name = body.name or free_name()
    values: Json = {key: float(value) for key, value in recipe(model).items()}
    if not mix.num_probe:
        # All that was taught is learned: rows to judge by would have to come from it.
        values["val_size"] = 0
    return {
        "training": {
            "name": name if name.startswith(PREFIX) else PREFIX + name,
            "model": model,
            "adapter": run,
            "dataset": mix.id,
            "values": values,
        },
        "taught": mix.num_taught,
        "older": mix.num_older,
        "probe": mix.num_probe,
        "old": last["voice"],
    }


def _learner(voice: str, model: str, request: Request) -> tuple[str, str]:
    """Return the base that learns, and the run to go on with; "" for the base itself."""
    if voice.startswith(RUN):
        id_of_run = voice.removeprefix(RUN).partition("@")[0]
        return _listed_name(read_manifest(run_folder(id_of_run)).base.name, request), id_of_run
    if voice != BASE:
        raise UsageError(
            _("The adapter {name} cannot be trained further here.").format(name=voice),
            why=_("It was given to the server at its start, and is no run of this machine."),
            fix=_("Correct an answer of the model itself, or of a run."),
        )
    return model or _loaded_model(request), ""


def _learned(studio: Studio, voice: str) -> str | None:
    """Return the listed data set that a voice has learned, or the run that it went on with."""
    for _generation in range(_MOST_GENERATIONS):
        if not voice.startswith(RUN):
            break
        try:
            run = read_manifest(run_folder(voice.removeprefix(RUN).partition("@")[0]))
        except DanluError:
            break
        found = learned_set(studio, run.settings)
        if found is not None:
            return found
        voice = old_voice(run)
    return None


def _loaded_model(request: Request) -> str:
    serving = state_of(request.app).serving
    return serving.name if serving else default_name()


def _listed_name(base: str, request: Request) -> str:
    """Return the name under which a run's base is listed: the loaded model has one of its own."""
    serving = state_of(request.app).serving
    is_loaded = serving is not None and serving.assistant.loaded.name == base
    return serving.name if serving and is_loaded else base


def _answers(request: Request) -> TaughtAnswers:
    return TaughtAnswers(studio_of(request).database)
