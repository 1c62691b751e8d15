"""`danlu merge`: write adapters into their base, verify the result, keep the report beside it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from danlu.cli.terminal.asking import agreed
from danlu.cli.terminal.screen import json_line
from danlu.errors import EXIT_OK, UsageError
from danlu.hub.settings import DeviceName, TrainedTemplate
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.runs.resuming import resume_command
from danlu.say import say
from danlu.settings.foreign_options import options_for
from danlu.settings.ranges import Range
from danlu.settings.schema import Foreign, Settings, option
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.export.merge import Ingredient


class MergeSettings(Settings):
    """Merge an adapter, or several, into the base model."""

    FOREIGN: ClassVar[Mapping[str, Foreign]] = options_for("merge")

    adapter_name_or_path: tuple[str, ...] = option(
        (),
        "the run or adapter to merge; several: a,b, with factors a=0.7,b=0.3",
        aliases=("adapter",),
    )
    export_dir: str = option("", "new folder for the merged model")
    model_name_or_path: str | None = option(
        None,
        "the base model, found from the adapter if not given; or the run or adapter itself",
        aliases=("model",),
        position=0,
    )
    template: TrainedTemplate = None
    enable_thinking: bool | None = option(
        None, "whether it reasons where nobody says so; as trained if not given"
    )
    export_size: Annotated[int, Range(least=1)] = option(
        5, "the most gigabytes (10^9 bytes) of one weight file"
    )
    device: DeviceName = option("auto", "where to verify")
    yes: bool = option(False, "merge what a run has that did not finish, without asking")
    json_output: bool = option(False, "print the report as JSON", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Merge and print how closely the merged model agrees with base and adapter."""
    resolved = read_settings(MergeSettings, "merge", argv)
    settings = _with_adapter(resolved.values)
    with MovingLine(_("reading the adapter")):
        from danlu.dialog.assistant import prompting_line
        from danlu.export.merge import check_empty, common_prompting, merge
        from danlu.export.merge_words import merge_remarks, merge_summary
        from danlu.hub.adapters import common_base, unproven_remark
        from danlu.hub.choosing import chosen_device

        export_dir = Path(settings.export_dir).expanduser().absolute()
        check_empty(export_dir, ["danlu", "merge", *_without_target(argv)])
        ingredients = [_ingredient(text) for text in settings.adapter_name_or_path]
        base = settings.model_name_or_path or common_base([each.source for each in ingredients])
    if not _may_be_merged(settings, ingredients, argv):
        say(_("Nothing was merged."))
        return EXIT_OK
    with MovingLine(in_lines=not settings.json_output) as line:
        prompting = common_prompting(ingredients, base, settings.template, settings.enable_thinking)
        report = merge(
            base,
            ingredients,
            export_dir,
            device=chosen_device(settings.device),
            prompting=prompting,
            shard_bytes=settings.export_size * 10**9,
            progress=line.show,
        )
    if settings.json_output:
        print(json_line(asdict(report)))
        return EXIT_OK
    if not report.base_is_proven:
        say(unproven_remark([each.source for each in ingredients], base))
    say(merge_summary(report), *merge_remarks(report))
    say(
        _(
            "{prompting}: recorded for danlu, and the default of its chat template elsewhere."
        ).format(prompting=prompting_line(prompting))
    )
    say(_("Merged model: {path}").format(path=export_dir))
    say(_("Chat with it: danlu chat --model {path}").format(path=shlex.quote(str(export_dir))))
    return EXIT_OK


def _without_target(argv: Sequence[str]) -> Iterator[str]:
    """Give the words of the command but for the folder of the result."""
    words = iter(argv)
    for word in words:
        if word == "--export_dir":
            next(words, None)
        elif not word.lstrip("-").startswith("export_dir="):
            yield word


def _with_adapter(settings: MergeSettings) -> MergeSettings:
    """Take a run or an adapter that is named as the model for what it is. Raises UsageError."""
    from danlu.hub.adapters import place_of, taken_apart

    adapters = settings.adapter_name_or_path
    _refuse_whole(adapters or (settings.model_name_or_path or "",))
    model, adapter = taken_apart(settings.model_name_or_path, next(iter(adapters), None))
    if not adapters and model is not None and not place_of(model).exists():
        model, adapter = None, model  # what is not there was meant as a run
    if adapter is not None and not adapters:
        adapters = (adapter,)
    merged = ("--adapter", ",".join(adapters)) if adapters else ("my-run",)
    for name, is_given in (("adapter_name_or_path", adapters), ("export_dir", settings.export_dir)):
        if not is_given:
            raise UsageError(
                _("--{name} is missing.").format(name=name),
                why=_("A merge needs an adapter and a folder for the result."),
                fix=shlex.join(["danlu", "merge", *merged, "--export_dir", "my-model"]),
            )
    update = {"model_name_or_path": model, "adapter_name_or_path": adapters}
    return settings.model_copy(update=update)


def _refuse_whole(names: Sequence[str]) -> None:
    """Raise UsageError for a run that trained all weights: it has a model, and no adapter."""
    from danlu.hub.adapters import place_of, taken_apart
    from danlu.runs.manifest import is_run

    for name in filter(None, names):
        model, _adapter = taken_apart(name, None)
        if model is not None and is_run(place_of(name)):
            raise UsageError(
                _("The run {folder} has no adapter.").format(folder=place_of(name)),
                why=_("It trained all weights of the model: nothing has to be merged."),
                fix=f"danlu chat --model {shlex.quote(model)}",
            )


def _ingredient(text: str) -> Ingredient:
    """Read NAME or NAME=FACTOR. Raises UsageError."""
    from danlu.export.merge import Ingredient
    from danlu.hub.adapters import find_adapter

    name, equals, factor = text.rpartition("=")
    if not equals or Path(text).expanduser().exists():
        return Ingredient(source=find_adapter(text))
    try:
        weight = float(factor)
    except ValueError:
        weight = 0.0
    if weight == 0.0 or not math.isfinite(weight):
        raise UsageError(
            _("{factor} is no factor for the adapter {name}.").format(factor=factor, name=name),
            why=_("A factor is a number other than 0; 1 adds what was trained."),
            fix=f"--adapter {shlex.quote(name)}=0.5",
        )
    return Ingredient(source=find_adapter(name), weight=weight)


def _may_be_merged(
    settings: MergeSettings, ingredients: Sequence[Ingredient], argv: Sequence[str]
) -> bool:
    """Say where something else than the end of a run would be merged; ask where a run has no end.

    Whoever names a checkpoint means it. Raises UsageError where nobody can be asked.
    """
    from danlu.hub.adapters import state_of_run, unfinished_remark

    for text, source in zip(
        settings.adapter_name_or_path, (i.source for i in ingredients), strict=True
    ):
        remark = unfinished_remark(source)
        if source.run is None or remark is None:
            continue
        if not settings.json_output:
            say(remark)
        is_named = source.folder.name in text
        if settings.yes or is_named:
            continue
        refusal = UsageError(
            _("The run {run} is not finished: {state}.").format(
                run=source.folder.parent, state=state_of_run(source.run)
            ),
            why=_("Its newest checkpoint is {checkpoint}, not what it would have become.").format(
                checkpoint=source.folder.name
            ),
            fix=_("Finish it: {resume}; or merge what there is: {merge}").format(
                resume=resume_command(source.folder.parent, source.run),
                merge=shlex.join(["danlu", "merge", *argv, "--yes", "true"]),
            ),
        )
        if not agreed(_("Merge it all the same? [y/N] "), refusal):
            return False
    return True
