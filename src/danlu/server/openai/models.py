"""The list of models: /v1/models, loading and unloading adapters; bodies as vLLM's.

Unloading takes an adapter out of the list only: requests that run with it hold it themselves, so
nothing disappears under them.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse

from danlu.errors import CapacityError, DataError, UsageError
from danlu.language import _
from danlu.server.edge.gate import serving_of
from danlu.server.edge.http_errors import ApiError, api_error_of
from danlu.server.edge.long_bodies import LongBodyRoute
from danlu.server.openai.body_types import Body
from danlu.server.served_adapters import (
    MAX_ADAPTERS,
    ServedAdapter,
    is_adapter_name,
    load_served_adapter,
)
from danlu.server.state import Serving, record_of, state_of

router = APIRouter(tags=["models"], route_class=LongBodyRoute)
# The folders of an absolute path.
_FOLDERS = re.compile(r"(?<![^\s'\"(])/(?:[^\s'\"/]+/)+")

_log = logging.getLogger(__name__)


class ModelCard(BaseModel):
    """A model, or an adapter that requests name like one.

    root: the last names of the folder that it comes from, not where that lies on the server.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str = "danlu"
    root: str
    parent: str | None = None
    max_model_len: int


class ModelList(BaseModel):
    """All of them, the base model first."""

    object: str = "list"
    data: list[ModelCard]


class LoadAdapter(Body):
    """Which folder to load, and what requests will call it."""

    lora_name: str = Field(description="letters, digits, dots, dashes and underscores, at most 64")
    lora_path: str = Field(description="a folder that was registered when the server was started")


class UnloadAdapter(Body):
    """Which adapter to forget."""

    lora_name: str
    lora_int_id: int | None = Field(None, description="vLLM's; it is not looked at")


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """List the model and its adapters."""
    return ModelList(data=_cards(serving_of(request.app)))


@router.get("/v1/models/{model_id:path}")
async def show_model(model_id: str, request: Request) -> ModelCard:
    """Show the model or one of its adapters."""
    for card in _cards(serving_of(request.app)):
        if card.id == model_id:
            return card
    raise _unknown(model_id)


@router.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
async def load_adapter(body: LoadAdapter, request: Request) -> str:
    """Load an adapter from a registered folder; its files are checked before it appears."""
    serving = serving_of(request.app)
    if not is_adapter_name(body.lora_name):
        raise _refused(
            "lora_name",
            _("A name is up to 64 letters, digits, dots, dashes and underscores."),
        )
    # One at a time: several at once could take the same name, or all of the memory.
    async with state_of(request.app).adapter_lock:
        if body.lora_name in serving.adapters or body.lora_name == serving.name:
            raise _refused("lora_name", _("There is a model of this name already."))
        if len(serving.adapters) >= MAX_ADAPTERS:
            raise _refused(
                "lora_name",
                _("No more than {most} adapters can be loaded.").format(most=MAX_ADAPTERS),
            )
        serving.adapters[body.lora_name] = await asyncio.to_thread(_load, body.lora_path, request)
    return _("Success: the adapter {name} is loaded.").format(name=body.lora_name)


@router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
async def unload_adapter(body: UnloadAdapter, request: Request) -> str:
    """Forget an adapter; requests that run with it are not disturbed."""
    serving = serving_of(request.app)
    gone = serving.adapters.pop(body.lora_name, None)
    if gone is None:
        raise _unknown(body.lora_name, param="lora_name")
    # What the engine keeps of it, to begin later prompts with.
    await asyncio.wrap_future(serving.service.call(lambda engine: engine.forget(gone.adapter)))
    return _("Success: the adapter {name} is unloaded.").format(name=body.lora_name)


def _load(path: str, request: Request) -> ServedAdapter:
    state, base = state_of(request.app), serving_of(request.app).assistant.loaded
    folder = state.adapter_folders.find(path)
    if folder is None:
        # The same words whether there is such a folder or not.
        raise _refused(
            "lora_path",
            _(
                "This folder is not registered: start the server with --adapter NAME=PATH, or with "
                "--adapter_dir FOLDER to load what lies in it."
            ),
        )
    try:
        return load_served_adapter(folder, base, state.settings)
    except (UsageError, DataError, CapacityError) as problem:
        record = record_of(request.scope)
        _log.warning("request %s: %s %s", record.id, problem.what, problem.why)
        error = api_error_of(problem, record.id, param="lora_path")
        places = (folder, state.adapter_folders.below, base.folder)
        error.message = _without_places(error.message, [place for place in places if place])
        raise error from problem


def _without_places(message: str, places: Sequence[Path]) -> str:
    """Leave only the last name of each path: where files lie on the server is not told."""
    for place in places:
        message = message.replace(f"{place}/", "").replace(str(place), place.name)
    return _FOLDERS.sub("", message)


def _cards(serving: Serving) -> list[ModelCard]:
    base = ModelCard(
        id=serving.name,
        created=int(serving.started_at),
        root=Path(serving.assistant.loaded.name).name,
        max_model_len=serving.context_tokens,
    )
    adapters = [
        ModelCard(
            id=name,
            created=int(served.loaded_at),
            root="/".join(served.folder.parts[-2:]),
            parent=serving.name,
            max_model_len=serving.context_tokens,
        )
        for name, served in sorted(serving.adapters.items())
    ]
    return [base, *adapters]


def _refused(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param)


def _unknown(name: str, *, param: str = "model") -> ApiError:
    return ApiError(
        404,
        _("There is no model {name}. GET /v1/models lists all of them.").format(name=repr(name)),
        code="model_not_found",
        param=param,
    )
