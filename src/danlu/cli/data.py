"""`danlu data`: `check` says what is wrong with data, `preview` shows what would be learned."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from danlu.cli.terminal.screen import json_line
from danlu.data.settings import DataSettings
from danlu.errors import EXIT_OK, DataError, UsageError
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.say import say
from danlu.settings.foreign_options import options_for
from danlu.settings.option_names import DEFAULT
from danlu.settings.ranges import PositiveInt
from danlu.settings.resolve import Resolved
from danlu.settings.schema import Foreign, option
from danlu.settings.show import read_settings

_S = TypeVar("_S", bound=DataSettings)


class CheckSettings(DataSettings):
    """Say what is wrong with data, before it is learned: exit code 5 when training would refuse."""

    FOREIGN: ClassVar[Mapping[str, Foreign]] = options_for("data")

    dataset: str = option("", "data files, folders or names in dataset_info.json", position=0)
    model_name_or_path: str = option(
        "starter", "model whose tokenizer counts the tokens", aliases=("model",)
    )
    json_output: bool = option(False, "print JSON", aliases=("json",))


class PreviewSettings(DataSettings):
    """Show the first rows as training sees them; what is learned is marked."""

    FOREIGN: ClassVar[Mapping[str, Foreign]] = options_for("data")

    dataset: str = option("", "data files, folders or names in dataset_info.json", position=0)
    model_name_or_path: str = option(
        "starter", "model whose tokenizer makes the tokens", aliases=("model",)
    )
    rows: PositiveInt = option(3, "how many rows")
    ids: bool = option(False, "show each token with its id")
    html: str = option("", "write a page to this file instead")


def run(argv: Sequence[str]) -> int:
    """Run one of the two; the words before the first flag are names of data sets."""
    action = argv[0] if argv else "--help"
    if action in ("--help", "-h"):
        say(_("usage: danlu data check NAME ...    what is wrong with the data"))
        say(_("       danlu data preview NAME ...  the rows as training sees them"))
        return EXIT_OK
    actions = {"check": _check, "preview": _preview}
    if action not in actions:
        raise UsageError(
            _("There is no command danlu data {name}.").format(name=action),
            why=_("The commands are: {names}.").format(names=", ".join(actions)),
            fix="danlu data check rows.jsonl",
        )
    return actions[action](_joined_names(argv[1:]))


def _joined_names(words: Sequence[str]) -> list[str]:
    """Write several names as one list; a settings file in front stays alone."""
    end = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    if end < 2 or words[0].lower().endswith((".yaml", ".yml")):
        return list(words)
    return [",".join(words[:end]), *words[end:]]


def _check(argv: Sequence[str]) -> int:
    resolved = read_settings(CheckSettings, "data check", argv)
    with MovingLine(_("Reading the data")):
        from danlu.cli.terminal.findings import report_lines
        from danlu.data.doctor.check import check_data, report_record
        from danlu.hub.chat_template import training_remarks
        from danlu.hub.names import model_folder
        from danlu.hub.prompting import prompting_of_model, with_template
        from danlu.text.tokenizer import Tokenizer

        settings = _with_model(resolved)
        folder = model_folder(settings.model_name_or_path)
        tokenizer = Tokenizer.load(folder)
        settings = with_template(settings, prompting_of_model(settings.model_name_or_path))
        report = check_data(settings, tokenizer).report
        remarks = list(training_remarks(folder, settings))
    if settings.json_output:
        print(json_line({**report_record(report), "remarks": remarks}))
    else:
        say(*remarks, *report_lines(report))
    return DataError.exit_code if report.refuses else EXIT_OK


def _preview(argv: Sequence[str]) -> int:
    resolved = read_settings(PreviewSettings, "data preview", argv)
    from danlu.cli.terminal.preview import page, terminal_lines
    from danlu.data.datasets import named_datasets
    from danlu.data.doctor.preview import preview
    from danlu.data.tokens.examples import Rendering
    from danlu.files.atomic import atomic_write
    from danlu.hub.chat_template import training_remarks
    from danlu.hub.names import model_folder
    from danlu.hub.prompting import prompting_of_model, with_template
    from danlu.text.tokenizer import Tokenizer

    settings = _with_model(resolved)
    folder = model_folder(settings.model_name_or_path)
    tokenizer = Tokenizer.load(folder)
    settings = with_template(settings, prompting_of_model(settings.model_name_or_path))
    for remark in training_remarks(folder, settings):
        say(remark)
    with MovingLine(_("Reading the data")):
        datasets = named_datasets(settings.dataset, settings)
        rendering = Rendering.from_settings(settings)
        rows = preview(datasets, tokenizer, rendering, num_rows=settings.rows)
    if settings.html:
        file = Path(settings.html).expanduser()
        atomic_write(file, "".join(page(rows, title=settings.dataset)))
        say(_("Written: {path}").format(path=file))
    else:
        # Made printable there; its colours are ours.
        print(*terminal_lines(rows, colours=sys.stdout.isatty(), ids=settings.ids), sep="\n")
    return EXIT_OK


def _with_model(resolved: Resolved[_S]) -> _S:
    """Return the settings with the model that is named, or the default one.

    What an adapter belongs to is known only with torch, which most checks do without.
    """
    from danlu.hub.names import default_model, model_folder
    from danlu.text.tokenizer import TOKENIZER_FILE

    settings = resolved.values
    given = resolved.origins["model_name_or_path"] != DEFAULT
    name = settings.model_dump()["model_name_or_path"] if given else default_model()
    if (model_folder(name) / TOKENIZER_FILE).is_file():
        return settings.model_copy(update={"model_name_or_path": name})
    from danlu.hub.adapters import with_named_model

    return with_named_model(settings, resolved.origins)
