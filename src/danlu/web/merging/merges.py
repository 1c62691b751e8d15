"""Merges and exports of this server: one at a time, on a thread, with the check's result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from danlu.export.gguf_model import Form, MatrixType, command_to_use, export
from danlu.export.merge import MergeReport, merge
from danlu.export.merge_words import merge_figures, merge_remarks, merge_verdict
from danlu.hub.prompting import prompting_of_model
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.web.background import Background
from danlu.web.merging.merge_plan import MergePlan
from danlu.web.models.model_list import KnownModel, exports_folder

Json = dict[str, Any]


class Merges:
    """The last merge and the last export. Both read and write gigabytes: one goes on at a time."""

    def __init__(self) -> None:
        self.works: dict[str, Background] = {}

    def newest(self) -> dict[str, Json]:
        """Say how the last merge and the last export stand, in the language of who asks."""
        found = {kind: work.newest for kind, work in self.works.items()}
        return {
            kind: {**newest, **_in_words(MergeReport(**newest["report"]))}
            if "report" in newest
            else newest
            for kind, newest in found.items()
        }

    def begin_merge(self, plan: MergePlan) -> Background:
        """Begin to merge. Raises ApiError where something else goes on."""

        def work(background: Background) -> Json:
            report = merge(
                plan.base,
                plan.ingredients,
                plan.folder,
                device=plan.device,
                progress=background.show,
            )
            return {**_in_words(report), "report": asdict(report), "folder": str(plan.folder)}

        return self._begin("merge", {"name": plan.name, "model": plan.name}, work)

    def begin_export(self, model: KnownModel, form: Form, type_: MatrixType) -> Background:
        """Begin to write a model for another program. Raises ApiError as `begin_merge`."""
        folder = _free_folder(f"{model.name}-{type_}{'-ollama' if form == 'ollama' else ''}")

        def work(background: Background) -> Json:
            report = export(
                model.word,
                folder,
                form=form,
                type=type_,
                prompting=prompting_of_model(model.word),
                progress=background.show,
            )
            return {
                "file": str(folder / report.file),
                "num_bytes": report.num_bytes,
                "command": command_to_use(report, folder),
            }

        facts = {"name": folder.name, "model": model.id, "form": form, "type": type_}
        return self._begin("export", facts, work)

    def _begin(self, kind: str, facts: Json, work: Callable[[Background], Json]) -> Background:
        if any(not each.is_over for each in self.works.values()):
            raise ApiError(409, _("Another merge or export goes on."), code="busy")
        background = self.works[kind] = Background({"kind": kind, **facts})
        background.begin(work)
        return background


def _in_words(report: MergeReport) -> Json:
    verdict, text = merge_verdict(report)
    figures = "; ".join([merge_figures(report), *merge_remarks(report)])
    return {"verdict": verdict, "text": text, "figures": figures}


def _free_folder(name: str) -> Path:
    folder = exports_folder() / name
    numbers = (folder.with_name(f"{name}-{number}") for number in range(2, 10_000))
    return folder if not folder.exists() else next(path for path in numbers if not path.exists())
