"""Routes of models: those that are here and to pull, loading, ejecting, pulling, removing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from danlu.hub.catalogue.offers import offer_record, offers
from danlu.hub.catalogue.published import find_pullable
from danlu.hub.catalogue.sites import Source, sites_of
from danlu.hub.store import models_folder, stored_models
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.lifecycle.opening import describe
from danlu.web.event_log import EventLog, seen_before, stream
from danlu.web.models.model_list import find_known, known_models, remove_model, use_as_default
from danlu.web.studio import Studio, studio_of

router = APIRouter(prefix="/studio")
Json = dict[str, Any]
_LOAD = "load a model"


class Named(BaseModel):
    """A model, by the id under which it is listed."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]


class Pulling(Named):
    """A published model, and the hub to ask."""

    source: Source = "auto"


@router.get("/models/loaded")
async def show_loaded(request: Request) -> Json:
    """Say which model is loaded, or how far its loading is."""
    studio = studio_of(request)
    serving = studio.server.serving
    lines = describe(serving) if serving else []
    return {**studio.loading.state.fields(), "lines": lines}


@router.get("/voices")
async def list_voices(request: Request) -> list[Json]:
    """List who can answer."""
    voices = studio_of(request).voices
    return [voice.fields() for voice in await asyncio.to_thread(lambda: list(voices.all()))]


@router.get("/models")
async def list_models(request: Request) -> Json:
    """List what is here, what can be pulled, and what each needs on this device."""
    studio = studio_of(request)
    return await asyncio.to_thread(_listing, studio)


def _listing(studio: Studio) -> Json:
    found = offers(studio.server.settings.device, without_loaded=True)
    loaded = _loaded_folder(studio)
    pulls = [work.newest for work in studio.pulls.all()]
    partial = {model.name: model.num_bytes for model in stored_models() if not model.is_complete}
    return {
        "device": found.facts.description,
        "budget_bytes": found.budget_bytes,
        "folder": str(models_folder()),
        "here": [
            {**model.fields(), "is_loaded": model.folder == loaded} for model in known_models()
        ],
        "catalogue": [
            {
                **offer_record(model, needed),
                "partial_bytes": partial.get(model.name, 0),
                "pull": next((pull for pull in pulls if pull["name"] == model.name), None),
            }
            for model, needed in found.needs.items()
        ],
        "sources": [
            {"source": site.source, "name": site.name, "address": site.address}
            for site in sites_of("auto")
        ],
    }


def _loaded_folder(studio: Studio) -> Path | None:
    serving = studio.server.serving
    return None if serving is None else serving.assistant.loaded.folder


@router.post("/models/load")
async def load_model(body: Named, request: Request) -> Json:
    """Load a listed model in place of the one that is there."""
    studio = studio_of(request)
    model = await asyncio.to_thread(find_known, body.name)
    _refuse_busy(studio)
    studio.loading.begins(model.name)
    studio.begin(_LOAD, studio.loading.exchange(model))
    return studio.loading.state.fields()


@router.post("/models/eject")
async def eject_model(request: Request) -> Json:
    """Let go of the loaded model, so that its memory is free."""
    studio = studio_of(request)
    _refuse_busy(studio)
    await studio.loading.eject()
    return studio.loading.state.fields()


def _refuse_busy(studio: Studio) -> None:
    if studio.loading.is_busy:
        raise ApiError(409, _("A model is being loaded. Wait until it is there."), code="busy")


@router.post("/models/use")
async def use_model(body: Named, request: Request) -> Json:
    """Make a model the one that is taken where none is named."""
    return {"default": await asyncio.to_thread(use_as_default, body.name)}


@router.post("/models/pull")
async def pull_model(body: Pulling, request: Request) -> Json:
    """Begin to pull a published model, or go on with what came before."""
    model, sites = find_pullable(body.name), sites_of(body.source)
    return studio_of(request).pulls.begin(model, sites).newest


@router.post("/models/pull/{name}/pause")
async def pause_pull(name: str, request: Request) -> Json:
    """Stop a pull; what has come stays."""
    work = studio_of(request).pulls.of(name)
    if work is not None:
        work.stop()
    return work.newest if work else {}


@router.get("/models/pull/{name}/events")
async def follow_pull(name: str, request: Request) -> Response:
    """Stream how far a pull is; each event tells the whole."""
    work = studio_of(request).pulls.of(name)
    log = work.log if work else EventLog()
    if work is None:
        log.end()
    return stream(request, log.follow(max(seen_before(request), len(log.events) - 1)))


@router.delete("/models/{name}")
async def delete_model(name: str, request: Request) -> Json:
    """Remove a pulled or merged model, or what came of one."""
    loaded = _loaded_folder(studio_of(request))
    return {"freed_bytes": await asyncio.to_thread(remove_model, name, loaded=loaded)}
