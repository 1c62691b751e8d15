"""Routes of runs: the list, a run with its curves as they grow, stopping, going on, removing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from danlu.errors import UsageError
from danlu.files.zipped import zipped
from danlu.hub.adapters import find_adapter
from danlu.language import _
from danlu.lora.peft_files import CONFIG_FILE
from danlu.lora.stored import WEIGHTS_FILE
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import is_run, read_manifest
from danlu.runs.registry import shown_state
from danlu.runs.stopping import ask_to_stop
from danlu.runs.trash import empty_trash, list_trash, move_to_trash
from danlu.server.edge.http_errors import ApiError
from danlu.web.available_voices import RUN, adapter_folder
from danlu.web.event_log import seen_before, stream
from danlu.web.runs.run_curve import curve_of
from danlu.web.runs.run_details import (
    activity,
    csv_of,
    details_of,
    report_of,
    resumed_settings,
    waiting_card,
)
from danlu.web.runs.run_following import follow_run
from danlu.web.studio import Studio, studio_of
from danlu.web.training.training_routes import advanced

router = APIRouter(prefix="/studio/runs")
Json = dict[str, Any]
_Step = Annotated[int, Field(ge=0)] | None


class RunChange(BaseModel):
    """What is to be changed; the rest stays."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(max_length=200)] | None = None
    note: Annotated[str, Field(max_length=20_000)] | None = None


class Resuming(BaseModel):
    """From where a run goes on. step: of a checkpoint; None: of the newest."""

    model_config = ConfigDict(extra="forbid")

    step: _Step = None


@router.get("")
async def list_all(request: Request, search: str = "") -> list[Json]:
    """List runs, the newest first: those that wait or begin, then those that have a folder."""
    studio = studio_of(request)

    def cards() -> list[Json]:
        entries = studio.queue.latest_by_run()
        found = [
            {**card, **activity(card, entries.get(card["id"]))}
            for card in studio.runs.cards(search[:200])
        ]
        known = {card["id"] for card in found}
        wanted = search[:200].strip().lower()
        begins = [
            waiting_card(entry)
            for entry in entries.values()
            if not entry.is_over and entry.run not in known and not is_run(entry.folder)
        ]
        return [card for card in begins if wanted in card["title"].lower()] + found

    return await asyncio.to_thread(cards)


@router.get("/trash")
async def show_trash() -> Json:
    """Say what lies in the trash of all runs, and how much it takes."""
    entries = await asyncio.to_thread(list_trash)
    return {"count": len(entries), "bytes": sum(entry.size_bytes for entry in entries)}


@router.post("/trash/empty")
async def empty_all_trash() -> Json:
    """Remove for good what lies in the trash."""

    def emptied() -> Json:
        removed = list(empty_trash(list_trash()))
        return {"count": len(removed), "bytes": sum(entry.size_bytes for entry in removed)}

    return await asyncio.to_thread(emptied)


@router.get("/{run}")
async def show(run: str, request: Request) -> Json:
    """Show all that is known of a run."""
    studio = studio_of(request)

    def details() -> Json:
        folder = _folder(studio, run)
        if is_run(folder):
            return details_of(studio, folder)
        entry = studio.queue.of_run(run)
        if entry is None:
            raise _gone()
        return {**waiting_card(entry), "log": studio.queue.log_tail(entry.id)}

    return await asyncio.to_thread(details)


@router.patch("/{run}")
async def change(run: str, body: RunChange, request: Request) -> Json:
    """Give a run a title or a note; its folder keeps its name."""
    studio = studio_of(request)

    def changed() -> None:
        studio.runs.folder(run)
        studio.runs.note(run, title=body.title, note=body.note)

    await asyncio.to_thread(changed)
    return {}


@router.delete("/{run}")
async def remove(run: str, request: Request) -> Json:
    """Move a run into the trash beside it; never one that goes on or waits."""
    studio = studio_of(request)

    def removed() -> Json:
        folder = studio.runs.folder(run)
        entry = studio.queue.of_run(run)
        if entry is not None and not entry.is_over:
            raise UsageError(
                _("The run {name} is not removed.").format(name=folder.name),
                why=_("It is in the queue, or goes on."),
                fix=_("Stop it first, or take it out of the queue."),
            )
        trashed = move_to_trash(folder)
        studio.queue.forget(run)
        studio.runs.forget(run)
        return {"bytes": trashed.size_bytes}

    return await asyncio.to_thread(removed)


@router.get("/{run}/curve")
async def show_curve(
    run: str, request: Request, from_step: int = 0, to_step: int | None = None
) -> Json:
    """Return the curves, thinned out to what a screen shows."""
    studio = studio_of(request)

    def curve() -> Json:
        folder = _folder(studio, run)
        return curve_of(studio.runs.tables.of(folder), first=from_step, last=to_step)

    return await asyncio.to_thread(curve)


@router.get("/{run}/events")
async def follow(run: str, request: Request) -> Response:
    """Stream what happens in a run, from where a page has lost it."""
    studio = studio_of(request)
    folder = await asyncio.to_thread(_folder, studio, run)
    return stream(request, follow_run(studio, run, folder, seen_before(request)))


@router.get("/{run}/report")
async def show_report(run: str, request: Request) -> Json:
    """Return the before/after report, as parts of a page."""
    studio = studio_of(request)
    report = await asyncio.to_thread(lambda: report_of(studio, studio.runs.folder(run)))
    if report is None:
        raise ApiError(404, _("This run has no report."))
    return report


@router.get("/{run}/metrics.csv")
async def download_metrics(run: str, request: Request) -> Response:
    """Return the metrics as a table file."""
    studio = studio_of(request)

    def made() -> tuple[str, str]:
        folder = studio.runs.folder(run)
        return folder.name, csv_of(folder)

    name, text = await asyncio.to_thread(made)
    named = f"attachment; filename*=UTF-8''{quote(name, safe='')}.csv"
    return Response(text, media_type="text/csv", headers={"content-disposition": named})


@router.get("/{run}/adapter.zip")
async def download_adapter(run: str, request: Request, step: _Step = None) -> Response:
    """Give the adapter that a run ended with, or that of a checkpoint, as PEFT reads it."""
    studio = studio_of(request)

    def found() -> tuple[str, Path]:
        name = studio.runs.folder(run).name
        at = "" if step is None else f"@{step}"
        return f"{name}{at}", find_adapter(str(adapter_folder(f"{RUN}{run}{at}"))).folder

    name, folder = await asyncio.to_thread(found)
    files = {f"{name}/{file}": folder / file for file in (CONFIG_FILE, WEIGHTS_FILE)}
    named = f"attachment; filename*=UTF-8''{quote(name, safe='')}.zip"
    return StreamingResponse(
        zipped(files), media_type="application/zip", headers={"content-disposition": named}
    )


@router.post("/{run}/stop")
async def stop(run: str, request: Request) -> Json:
    """Ask a run to save its last completed step and to end."""
    studio = studio_of(request)

    def stopped() -> None:
        folder = _folder(studio, run)
        entry = studio.queue.of_run(run)
        if entry is not None and entry.state == "waiting":
            studio.queue.remove(entry.id)
            return
        is_begun = is_run(folder) and studio.runs.card(folder)["state"] == "running"
        begins = not is_begun and entry is not None and entry.state == "running"
        if begins and entry is not None and studio.queue.stop_before_its_run(entry):
            return
        ask_to_stop(folder)

    await asyncio.to_thread(stopped)
    return {}


@router.post("/{run}/resume")
async def resume(run: str, body: Resuming, request: Request) -> Json:
    """Put a run that has ended early into the queue again, to go on from a checkpoint."""
    studio = studio_of(request)

    def resumed() -> Json:
        folder = studio.runs.folder(run)
        manifest = read_manifest(folder)
        steps = [checkpoint.step for checkpoint in list_checkpoints(folder)]
        if not steps or (body.step is not None and body.step not in steps):
            raise UsageError(
                _("The run {name} cannot go on from there.").format(name=folder.name),
                why=_("It has no such checkpoint."),
                fix=_("Choose another one."),
            )
        if studio.runs.card(folder)["state"] == "running":
            raise UsageError(
                _("The run {name} goes on already.").format(name=folder.name),
                why=_("Its state is {state}.").format(state=shown_state("running")),
                fix=_("Wait until it has ended, or stop it."),
            )
        settings = resumed_settings(manifest, folder, body.step)
        return studio.queue.add(settings, folder, cwd=manifest.cwd).fields()

    added = await asyncio.to_thread(resumed)
    await advanced(studio)
    return added


def _folder(studio: Studio, run: str) -> Path:
    """Return the folder of a run, also of one that has not begun yet. Raises UsageError."""
    entry = studio.queue.of_run(run)
    return entry.folder if entry is not None else studio.runs.folder(run)


def _gone() -> UsageError:
    return UsageError(
        _("There is no such run."),
        why=_("It may have been removed."),
        fix=_("Load the list of runs again."),
    )
