"""Routes of merging and exporting: what there is, what would happen, doing it, stopping it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response

from danlu.errors import DanluError
from danlu.language import _
from danlu.program import as_typed
from danlu.server.edge.http_errors import ApiError
from danlu.web.event_log import EventLog, seen_before, stream
from danlu.web.merging.merge_plan import MergePlan, merge_targets, plan_merge, suggested_name
from danlu.web.models.model_list import exports_folder, find_known
from danlu.web.studio import Studio, studio_of

router = APIRouter(prefix="/studio/merge")
Json = dict[str, Any]
Kind = Literal["merge", "export"]
_Text = Annotated[str, Field(min_length=1, max_length=200)]


class Merging(BaseModel):
    """What is merged, as a voice (`run:ID`, `run:ID@STEP`, an adapter), and the result's name."""

    model_config = ConfigDict(extra="forbid")

    voice: _Text
    name: _Text


class Exporting(BaseModel):
    """A listed model, and the form in which it is written."""

    model_config = ConfigDict(extra="forbid")

    model: _Text
    form: Literal["gguf", "ollama"] = "gguf"
    type: Literal["bf16", "q8_0"] = "q8_0"


@router.get("/targets")
async def list_targets(request: Request) -> Json:
    """List what can be merged, and how the last merge and export stand."""
    studio = studio_of(request)

    def listed() -> list[Json]:
        targets = merge_targets(studio.server.serving)
        return [{**each, "suggestion": suggested_name(each["name"])} for each in targets]

    return {"targets": await asyncio.to_thread(listed), **studio.merges.newest()}


@router.post("/plan")
async def show_plan(body: Merging, request: Request) -> Json:
    """Say what a merge would do, or why it cannot be done."""
    studio = studio_of(request)
    try:
        plan = await asyncio.to_thread(_plan, studio, body)
        return await asyncio.to_thread(plan.fields)
    except DanluError as problem:
        return {"problem": f"{problem.what} {problem.why}", "fix": as_typed(problem.fix)}


@router.post("")
async def begin_merge(body: Merging, request: Request) -> Json:
    """Merge; refused before anything is written where the disk is too small."""
    studio = studio_of(request)
    plan = await asyncio.to_thread(_plan, studio, body)
    await asyncio.to_thread(plan.check_space)
    return studio.merges.begin_merge(plan).newest


@router.post("/export")
async def begin_export(body: Exporting, request: Request) -> Json:
    """Write a model for llama.cpp or Ollama."""
    model = await asyncio.to_thread(find_known, body.model)
    return studio_of(request).merges.begin_export(model, body.form, body.type).newest


@router.get("/exports/{name}/file")
async def download_export(name: str) -> Response:
    """Give the file of an export, by the name of its folder."""

    def found() -> Path | None:
        folder = exports_folder()
        folders = folder.iterdir() if folder.is_dir() else ()
        here = [each for each in folders if each.name == name]
        return next((file for each in here for file in sorted(each.glob("*.gguf"))), None)

    file = await asyncio.to_thread(found)
    if file is None:
        raise ApiError(404, _("There is no such export."))
    return FileResponse(file, filename=file.name)


@router.post("/{kind}/stop")
async def stop_work(kind: Kind, request: Request) -> Json:
    """Stop the merge or the export; nothing half written stays."""
    work = studio_of(request).merges.works.get(kind)
    if work is not None:
        work.stop()
    return work.newest if work else {}


@router.get("/{kind}/events")
async def follow_work(kind: Kind, request: Request) -> Response:
    """Stream how far the merge or the export is; each event tells the whole."""
    work = studio_of(request).merges.works.get(kind)
    log = work.log if work else EventLog()
    if work is None:
        log.end()
    return stream(request, log.follow(max(seen_before(request), len(log.events) - 1)))


def _plan(studio: Studio, body: Merging) -> MergePlan:
    server = studio.server
    return plan_merge(body.voice, body.name, server.serving, device=server.settings.device)
