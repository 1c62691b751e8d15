"""Routes of data: the sets, uploads, the doctor's report, rows as the model sees them, columns."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from danlu.data.datasets import find_datasets
from danlu.data.reading.rows import READERS
from danlu.errors import UsageError
from danlu.language import _, chosen_language
from danlu.server.state import state_of
from danlu.text.render import Template
from danlu.web.data.changed_rows import (
    ChangedRows,
    NumberedRow,
    RowChange,
    current_file,
    digest_of,
    numbered_rows,
    with_exact_numbers,
)
from danlu.web.data.column_choice import choose_columns, chosen_columns, described_columns
from danlu.web.data.data_folders import KnownSet
from danlu.web.data.learner import Learner, learner
from danlu.web.data.registered import counted_rows, dataset_words, entry_name, listed_sets
from danlu.web.data.set_checks import CheckResult, checked, finding_fields
from danlu.web.data.shown_rows import RowView, page_of_rows, row_as_seen, seen_rows
from danlu.web.data.uploads import receive_upload, remove_upload
from danlu.web.studio import Studio, studio_of

router = APIRouter(prefix="/studio/data")
Json = dict[str, Any]
# A request waits so long for a check; then the page asks again.
_WAITS_S = 2.0
_MOST_ROWS = 50
_Cutoff = Annotated[int | None, Query(ge=1, le=1_000_000)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _DataBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RowEdit(_DataBody):
    """What is done to a row. row: what stands in its place, of an edit."""

    action: Literal["edit", "exclude", "restore"]
    row: dict[str, Any] | None = None


class ColumnChoice(_DataBody):
    """Which columns mean what; without formatting it is left to their names."""

    formatting: Literal["alpaca", "sharegpt", "openai"] | None = None
    columns: dict[_Name, Annotated[str, Field(max_length=200)]] = Field(
        default_factory=dict, max_length=20
    )
    tags: dict[_Name, Annotated[str, Field(max_length=200)]] = Field(
        default_factory=dict, max_length=20
    )


@router.get("/sets")
async def list_sets(request: Request) -> list[Json]:
    """List the data sets."""
    return await asyncio.to_thread(listed_sets, studio_of(request))


@router.get("/uploads")
async def show_limits(request: Request) -> Json:
    """Say what may be uploaded."""
    return {"max_bytes": studio_of(request).data.max_upload_bytes, "suffixes": list(READERS)}


@router.post("/uploads")
async def upload(request: Request, name: Annotated[str, Query(max_length=400)]) -> Json:
    """Take a file; its body is the file as it is."""
    limit = studio_of(request).data.max_upload_bytes
    return asdict(await receive_upload(request, name, limit=limit))


@router.delete("/sets/{id_of_set}")
async def delete_set(id_of_set: str, request: Request) -> Json:
    """Delete an uploaded data set, with what was changed in it."""
    studio = studio_of(request)

    def delete() -> None:
        known = studio.data.find(id_of_set)
        if any(
            str(known.folder) in str(entry.settings)
            for entry in studio.queue.shown()
            if not entry.is_over
        ):
            raise UsageError(
                _("{name} is not deleted.").format(name=known.name),
                why=_("A training in the queue needs it."),
                fix=_("Wait until it has ended, or take it out of the queue."),
            )
        remove_upload(known)
        ChangedRows(studio.database).forget(known.id)

    await asyncio.to_thread(delete)
    return {}


@router.get("/sets/{id_of_set}/check")
async def show_check(
    id_of_set: str, request: Request, cutoff_len: _Cutoff = None, template: Template | None = None
) -> Json:
    """Return the doctor's report; `state` is `running` while there is none yet: ask again."""
    look = await asyncio.to_thread(_Look, request, id_of_set, cutoff_len, template)
    task = studio_of(request).checks.begin(look.key, look.check)
    await asyncio.wait({task}, timeout=_WAITS_S)
    if not task.done():
        return {"state": "running"}
    return {**task.result().report, "cutoff_len": look.learner.cutoff_len}


@router.get("/sets/{id_of_set}/rows")
async def show_rows(
    id_of_set: str,
    request: Request,
    at: Annotated[int, Query(ge=0, le=10**9)] = 0,
    count: Annotated[int, Query(ge=1, le=_MOST_ROWS)] = 20,
    only: Literal["findings", "cut", "changed"] | None = None,
    cutoff_len: _Cutoff = None,
    template: Template | None = None,
) -> Json:
    """Return rows as the model will see them; `only`: those with findings, cut or changed ones."""
    look = await asyncio.to_thread(_Look, request, id_of_set, cutoff_len, template)
    checks = studio_of(request).checks
    if only in ("findings", "cut"):  # only a look at all rows tells which these are
        task = checks.begin(look.key, look.check)
        await asyncio.wait({task}, timeout=_WAITS_S)
        if not task.done():
            return {"state": "running"}
    return await asyncio.to_thread(look.rows, at, count, only, checks.done(look.key))


@router.post("/sets/{id_of_set}/rows/{number}")
async def change_row(id_of_set: str, number: int, body: RowEdit, request: Request) -> Json:
    """Edit a row, leave it out, or undo that; an edit that cannot be learned is not kept."""
    look = await asyncio.to_thread(_Look, request, id_of_set, None, None)
    return await asyncio.to_thread(look.change, number, body)


@router.post("/sets/{id_of_set}/exclude_bad")
async def exclude_bad_rows(id_of_set: str, request: Request) -> Json:
    """Leave out all rows that cannot be learned; each can be taken back by itself."""
    look = await asyncio.to_thread(_Look, request, id_of_set, None, None)
    # Shielded: others may wait for the same check.
    check = await asyncio.shield(studio_of(request).checks.begin(look.key, look.check))
    return {"excluded": await asyncio.to_thread(look.exclude_bad, check)}


@router.get("/sets/{id_of_set}/columns")
async def show_columns(id_of_set: str, request: Request) -> Json:
    """Say how a data set's rows are read, with its first ones."""
    studio = studio_of(request)

    def described() -> Json:
        known = studio.data.find(id_of_set)
        choice = chosen_columns(studio.data, known)
        return described_columns(dataset_words(studio, known.id), known, choice)

    return await asyncio.to_thread(described)


@router.post("/sets/{id_of_set}/columns")
async def change_columns(id_of_set: str, body: ColumnChoice, request: Request) -> Json:
    """Say which columns mean what, and return how rows are read then."""
    studio = studio_of(request)

    def change() -> Json:
        known = studio.data.find(id_of_set)
        choice = body.model_dump(exclude_none=True) if body.formatting else {}
        path = current_file(known, ChangedRows(studio.database).of(known.id))
        choose_columns(known, entry_name(known), path, choice)
        chosen = chosen_columns(studio.data, known)
        return described_columns(dataset_words(studio, known.id), known, chosen)

    return await asyncio.to_thread(change)


class _Look:
    """A look at one data set: its changes, its words, and who is to learn it; made on a thread."""

    def __init__(
        self, request: Request, id_of_set: str, cutoff_len: int | None, template: Template | None
    ) -> None:
        self.studio: Studio = studio_of(request)
        self.known: KnownSet = self.studio.data.find(id_of_set)
        self.changes: dict[int, RowChange] = ChangedRows(self.studio.database).of(id_of_set)
        self.words = dataset_words(self.studio, id_of_set)
        self.learner: Learner = learner(state_of(request.app).serving, template, cutoff_len)

    @property
    def key(self) -> Hashable:
        """What the report depends on."""
        choice = chosen_columns(self.studio.data, self.known)
        return (
            self.known.id,
            self.known.stamp,
            repr(sorted(self.changes.items())),
            repr(choice),
            self.learner.name,
            str(self.learner.tokenizer.path),
            self.learner.template,
            self.learner.cutoff_len,
            chosen_language(),
        )

    def check(self) -> CheckResult:
        return checked(self.known, self.words, self.learner, bool(self.changes))

    def rows(self, at: int, count: int, only: str | None, check: CheckResult | None) -> Json:
        numbers = None
        if only == "changed":
            numbers = sorted(self.changes)
        elif only is not None and check is not None:
            is_found = only == "findings"
            cutoff = self.learner.cutoff_len
            numbers = check.rows_with_findings() if is_found else check.rows_over(cutoff)
        page = page_of_rows(
            self.known,
            self.changes,
            self.words,
            self.learner,
            RowView(at=at, count=count, numbers=numbers),
            check,
        )
        total = counted_rows(self.studio, self.known) if numbers is None else len(numbers)
        return {"state": "done", "total": total, "cutoff_len": self.learner.cutoff_len, **page}

    def exclude_bad(self, check: CheckResult) -> int:
        self._refuse_taught()
        bad, changed = check.bad_rows(), ChangedRows(self.studio.database)
        for row in numbered_rows(self.known.file, self.changes):
            if row.number in bad:
                changed.exclude(self.known.id, row)
        return len(bad)

    def _refuse_taught(self) -> None:
        if self.known.kind == "taught":
            raise UsageError(
                _("Taught rows are not changed here."),
                why=_("They are corrected where they were taught."),
                fix=_("Open the page Teach."),
            )

    def change(self, number: int, body: RowEdit) -> Json:
        self._refuse_taught()
        changed, row = ChangedRows(self.studio.database), self._row(number)
        if body.action == "restore":
            changed.restore(self.known.id, number)
        elif body.action == "exclude":
            changed.exclude(self.known.id, row)
        else:
            if body.row is None:
                raise UsageError(
                    _("The row is missing."),
                    why=_("An edit needs what shall stand in its place."),
                    fix=_("Send it as row."),
                )
            content = with_exact_numbers(row.content, body.row)
            seen = self._seen(row, content)
            if any(finding["severity"] == "error" for finding in seen["findings"]):
                return {"saved": False, **seen}
            changed.edit(self.known.id, row, content)
            return {"saved": True, **seen}
        return {"saved": True, "findings": []}

    def _row(self, number: int) -> NumberedRow:
        for row in numbered_rows(self.known.file, self.changes):
            if row.number == number:
                return row
        raise UsageError(
            _("There is no row {number}.").format(number=number),
            why=_("The file has fewer rows."),
            fix=_("Load the rows again."),
        )

    def _seen(self, row: NumberedRow, content: Json) -> Json:
        """Look at a row as it would be after an edit. Raises what reading the data set raises."""
        change = RowChange(
            number=row.number,
            digest=digest_of(row.original, row.found),
            is_excluded=False,
            content=content,
        )
        edited = NumberedRow(
            number=row.number,
            place=row.place,
            original=row.original,
            found=row.found,
            change=change,
        )
        words = self.words
        (dataset,) = find_datasets(
            words["dataset"], Path(words.get("dataset_dir", "")), max_samples=None, seed=0
        )
        ((_row, seen),) = seen_rows([edited], dataset, self.learner)
        fields = row_as_seen(edited, seen)
        found = fields.pop("_findings")
        return {
            **fields,
            "findings": [finding_fields(finding, row.number, self.known) for finding in found],
        }
