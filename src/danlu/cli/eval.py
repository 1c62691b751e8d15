"""`danlu eval`: a run's before/after report again, or any model's scores on a data set."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from danlu.dialog.settings import ModelSettings
from danlu.errors import EXIT_OK, UsageError
from danlu.hub.settings import TrainedTemplate
from danlu.language import _, padded
from danlu.moving_line import MovingLine
from danlu.say import say
from danlu.settings.foreign_options import options_for
from danlu.settings.ranges import PositiveFloat, PositiveInt
from danlu.settings.schema import Foreign, option
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.data.datasets import Row
    from danlu.dialog.assistant import Assistant
    from danlu.workflows.evaluation import Scored
    from danlu.workflows.report.before_after import BeforeAfter
    from danlu.workflows.report.measure import Stage

# What scores are called; others (rouge-l, bleu-4) are the same everywhere.
SCORE_NAMES = {
    "loss": "loss",
    "loss_per_sample": "loss, mean of rows",
    "perplexity": "perplexity",
    "tokens": "tokens",
    "samples": "rows",
    "runtime": "seconds",
    "bleu_signature": "BLEU's settings",
    "exact_match": "exact match",
    "reached_limit": "cut at the limit",
    "empty": "empty",
    "refused": "refused",
}
_NAME_COLUMNS = 20


class EvalSettings(ModelSettings):
    """Write a run's before/after report again, or score a model on a data set."""

    FOREIGN: ClassVar[Mapping[str, Foreign]] = options_for("eval")

    run: str | None = option(
        None, "a training run; with --dataset a model or an adapter too", position=0
    )
    dataset: str = option(
        "",
        "score on these: data files, folders or names in dataset_info.json, by commas",
        aliases=("eval_dataset",),
    )
    dataset_dir: str = option("data", "folder that holds dataset_info.json")
    max_samples: PositiveInt | None = option(None, "use only the first rows of each data set")
    template: TrainedTemplate = None
    enable_thinking: bool | None = option(None, "let the model reason; as trained if not given")
    max_new_tokens: PositiveInt = option(512, "longest answer in tokens", aliases=("max_tokens",))
    output_dir: str | None = option(
        None, "folder for predictions and scores; a new one, eval-TIME, if not given"
    )
    report_seconds: PositiveFloat = option(
        60.0, "time for the report's measurements, loading excepted"
    )
    json_output: bool = option(False, "print JSON and nothing else", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Score where a data set is named, else write the report."""
    resolved = read_settings(EvalSettings, "eval", argv)
    settings = _taken_for_what_it_is(resolved.values)
    _check(settings)
    if settings.dataset:
        _score(settings)
    else:
        _report(settings)
    return EXIT_OK


def _taken_for_what_it_is(settings: EvalSettings) -> EvalSettings:
    """Find the run that is named by whatever flag; what is scored may be a model or an adapter."""
    from danlu.hub.adapters import place_of, taken_apart
    from danlu.runs.manifest import is_run
    from danlu.runs.registry import find_run

    flags = ("adapter_name_or_path", "model_name_or_path")
    if settings.run is not None:
        folder = place_of(settings.run)
        if is_run(folder):
            return settings.model_copy(update={"run": str(folder)})
        if not folder.exists():
            find_run(settings.run)  # says that there is none
        named = dict(zip(reversed(flags), taken_apart(settings.run, None), strict=True))
        for name, given in named.items():
            if given is not None and getattr(settings, name) is not None:
                raise UsageError(
                    _("Two are named: {first} and {second}.").format(
                        first=settings.run, second=getattr(settings, name)
                    ),
                    why=_("One is scored at a time."),
                    fix=_("Leave one of them out."),
                )
        update = {name: given for name, given in named.items() if given is not None}
        return settings.model_copy(update={"run": None, **update})
    for name in flags:
        given = getattr(settings, name)
        if not settings.dataset and given is not None and is_run(place_of(given)):
            return settings.model_copy(update={name: None, "run": str(place_of(given))})
    return settings


def _suggestion(settings: EvalSettings) -> str:
    """Write the two commands that may be meant, with what was named already."""
    run = shlex.quote(settings.adapter_name_or_path or "my-run")
    model = shlex.quote(settings.model_name_or_path or "my-model")
    one, other = f"danlu eval {run}", f"danlu eval --model {model} --dataset rows.jsonl"
    return _("{one} or {other}").format(one=one, other=other)


def _check(settings: EvalSettings) -> None:
    if settings.run is None and not settings.dataset:
        raise UsageError(
            _("There is nothing to evaluate."),
            why=_("Neither a run nor a data set is named."),
            fix=_suggestion(settings),
        )
    if settings.run is not None and settings.adapter_name_or_path is not None:
        raise UsageError(
            _("A run and an adapter are named."),
            why=_("The run brings its own adapter."),
            fix=_("Leave one of them out."),
        )
    for name in ("output_dir", "template", "enable_thinking", "max_samples"):
        if not settings.dataset and getattr(settings, name) is not None:
            raise UsageError(
                _("--{name} has no meaning here.").format(name=name),
                why=_("A report lies in the folder of its run and uses what the run was made of."),
                fix=_("Leave it out, or name a --dataset to score on."),
            )


def _report(settings: EvalSettings) -> None:
    from danlu.cli.terminal.screen import json_line
    from danlu.workflows.report.before_after import BeforeAfter
    from danlu.workflows.report.report import HTML_FILE, MARKDOWN_FILE, write_report

    folder = Path(settings.run or "").expanduser().absolute()
    if not settings.json_output:
        show_report(folder, settings, limit_s=settings.report_seconds)
        return
    for event in write_report(folder, settings, limit_s=settings.report_seconds):
        if isinstance(event, BeforeAfter):
            files = {"html": str(folder / HTML_FILE), "markdown": str(folder / MARKDOWN_FILE)}
            print(json_line({**files, **event.figures()}))


def show_report(folder: Path, settings: ModelSettings, *, limit_s: float) -> None:
    """Write a run's report, and show how far it is and what came out. Raises what that raises."""
    with MovingLine(_("Reading the run")) as line:
        from danlu.workflows.report.report import write_report

        for event in write_report(folder, settings, limit_s=limit_s, progress=line.show):
            texts = report_lines(event)
            for text in texts:
                line.say(text)
            line.show(texts[-1])


def report_lines(event: Stage | BeforeAfter) -> list[str]:
    """Describe the stage that begins, or at the end the results and where the report is."""
    from danlu.workflows.report.measure import Stage
    from danlu.workflows.report.report import HTML_FILE
    from danlu.workflows.report.sentences import short_rows
    from danlu.workflows.report.verdict import verdict

    if isinstance(event, Stage):
        what = {
            "loss": _("the loss"),
            "held_out": _("answers to rows of the data"),
            "general": _("answers to general prompts"),
        }[event.name]
        return [_("Report: measuring {what}").format(what=what)]
    return [
        _("Before and after:"),
        *(
            "  " + _("{name}: {before} -> {after}").format(name=name, before=before, after=after)
            for name, before, after in short_rows(event)
        ),
        *verdict(event),
        _("Report: {path}").format(path=event.folder / HTML_FILE),
    ]


def _score(settings: EvalSettings) -> None:
    with MovingLine(_("Reading the data")) as line:
        from danlu.dialog.assistant import open_assistant
        from danlu.workflows.evaluation import check_ready
        from danlu.workflows.held_out import read_dataset
        from danlu.workflows.report.run_models import tuned_settings

        rows = read_dataset(
            settings.dataset, Path(settings.dataset_dir), max_samples=settings.max_samples
        )
        model: ModelSettings = settings
        parent = Path()
        if settings.run is not None:
            parent = Path(settings.run).expanduser().absolute()
            model = tuned_settings(parent, settings)
        folder = Path(settings.output_dir or parent / time.strftime("eval-%Y%m%d-%H%M%S"))
        check_ready(folder)
        assistant = open_assistant(
            model,
            template=settings.template,
            enable_thinking=settings.enable_thinking,
            progress=line.show,
        )
    if not settings.json_output:
        say(*assistant.describe())
    scored = _evaluated(assistant, rows, folder, settings)
    print(_json_or_lines(scored, settings))


def _evaluated(
    assistant: Assistant, rows: Sequence[Row], folder: Path, settings: EvalSettings
) -> Scored:
    """Measure, and show how far it is."""
    from danlu.workflows.evaluation import Scored, evaluate

    stages = {"loss": _("loss"), "answers": _("answers")}
    with MovingLine(in_lines=not settings.json_output) as line:
        for event in evaluate(assistant, rows, folder, max_new_tokens=settings.max_new_tokens):
            if isinstance(event, Scored):
                return event
            line.count(stages[event.stage], event.done, event.total)
    raise AssertionError("an evaluation ends with its scores")


def _json_or_lines(scored: Scored, settings: EvalSettings) -> str:
    from danlu.cli.terminal.screen import json_line

    return json_line(scored.results) if settings.json_output else "\n".join(_result_lines(scored))


def _score_name(name: str) -> str:
    return _(SCORE_NAMES[name]) if name in SCORE_NAMES else name


def _result_lines(event: Scored) -> list[str]:
    return [
        _("Scores (ROUGE, BLEU and exact match from 0 to 100):"),
        *(
            f"  {padded(_score_name(name.removeprefix('predict_')), _NAME_COLUMNS)}{value}"
            for name, value in event.results.items()
            if name.startswith("predict_")
        ),
        _("Answers: {path}").format(path=event.predictions),
        _("Scores: {path}").format(path=event.results_file),
    ]
