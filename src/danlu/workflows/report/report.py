"""The before/after report of a run: what it began with and what it made do with the same things.

Written by every training run at its end and by `danlu eval RUN`, from the run's folder and the data
it names. What could not be measured is said, never guessed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from danlu.dialog.settings import ModelSettings
from danlu.errors import DanluError
from danlu.files.atomic import atomic_write
from danlu.hub.adapters import find_adapter
from danlu.hub.load import check_model
from danlu.moving_line import Progress, no_progress
from danlu.runs.manifest import RunManifest, read_manifest
from danlu.runs.metrics import read_metrics
from danlu.train.settings import REPORT_SECONDS
from danlu.workflows.answers import Clock
from danlu.workflows.held_out import JudgedRows, judged_rows
from danlu.workflows.report.before_after import BeforeAfter
from danlu.workflows.report.measure import Stage, Subject, Task, measure
from danlu.workflows.report.page_html import to_html
from danlu.workflows.report.page_json import to_json
from danlu.workflows.report.page_markdown import to_markdown
from danlu.workflows.report.prompts import GENERAL_PROMPTS
from danlu.workflows.report.run_models import adapter_before, base_name, tuned_settings
from danlu.workflows.report.sentences import page_of
from danlu.workflows.report.verdict import verdict

HTML_FILE, MARKDOWN_FILE, JSON_FILE = "report.html", "report.md", "report.json"
NUM_QUESTIONS = 20


def write_report(
    folder: Path,
    settings: ModelSettings | None = None,
    *,
    limit_s: float = REPORT_SECONDS,
    clock: Clock = time.monotonic,
    progress: Progress = no_progress,
) -> Iterator[Stage | BeforeAfter]:
    """Measure a run and write report.html, report.md and report.json into its folder.

    Yields the stages that begin, at last what was found. settings: device and dtype, and where the
    base model is if it has moved. limit_s: seconds of measuring, in addition to loading the models.
    Raises UsageError where the run has no weights yet, and what loading a model raises.
    """
    start = clock()
    settings = settings or ModelSettings()
    run = read_manifest(folder)
    began_with, began_problem = adapter_before(run)
    subjects = _subjects(folder, run, settings, began_with)
    judged, problem = _judged(run, subjects[0])
    task = Task(
        rows=judged.rows if judged else (),
        questions=[question.conversation for question in judged.questions] if judged else (),
        prompts=[prompt.conversation for prompt in GENERAL_PROMPTS],
        template=run.template,
        # Where every row decided for itself (null), a prompt ends as it does without thinking.
        enable_thinking=bool(run.enable_thinking),
        limit_s=limit_s,
        clock=clock,
    )
    before, after = yield from measure(subjects, task, progress)
    found = BeforeAfter(
        folder=folder,
        run=run,
        records=read_metrics(folder),
        judged=judged,
        judged_problem=problem,
        before=before,
        after=after,
        began_with=began_with.name if began_with else "",
        began_problem=began_problem,
        tuned=_tuned_name(folder, subjects[-1]),
        seconds=clock() - start,
        limit_s=limit_s,
    )
    page = page_of(found)
    atomic_write(folder / HTML_FILE, to_html(page))
    atomic_write(folder / MARKDOWN_FILE, to_markdown(page))
    atomic_write(folder / JSON_FILE, to_json(page, {**found.figures(), "verdict": verdict(found)}))
    yield found


def _subjects(
    folder: Path, run: RunManifest, settings: ModelSettings, began_with: Path | None
) -> list[Subject]:
    """Return what is opened: base with adapter, or two models one after the other.

    began_with: the adapter that the run trained further, on the same base.
    """
    tuned = tuned_settings(folder, settings)
    if run.base_form not in (None, "fp8") and tuned.quantization is None:
        # The base that was trained on; in 16 bits it may not fit where the run did.
        tuned = tuned.model_copy(update={"quantization": run.base_form})
    if tuned.adapter_name_or_path and began_with:
        former = tuned.model_copy(update={"adapter_name_or_path": str(began_with)})
        return [Subject(settings=each, with_adapter=(True,)) for each in (former, tuned)]
    if tuned.adapter_name_or_path:
        return [Subject(settings=tuned, with_adapter=(False, True))]
    name = settings.model_name_or_path or base_name(run)
    base = tuned.model_copy(update={"model_name_or_path": name})
    return [Subject(settings=model, with_adapter=(False,)) for model in (base, tuned)]


def _judged(run: RunManifest, subject: Subject) -> tuple[JudgedRows | None, str]:
    """Read the rows to judge by, or say why they cannot be read (the report does without)."""
    tokenizer = check_model(subject.settings.model_name_or_path or base_name(run)).tokenizer
    try:
        return judged_rows(run.settings, tokenizer, limit=NUM_QUESTIONS), ""
    except DanluError as problem:
        return None, str(problem)


def _tuned_name(folder: Path, subject: Subject) -> str:
    """Return the name of the folder with the tuned weights: final, or a checkpoint."""
    if subject.settings.adapter_name_or_path:
        return find_adapter(str(folder)).folder.name
    return Path(subject.settings.model_name_or_path or "").name
