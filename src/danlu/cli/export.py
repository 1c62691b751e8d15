"""`danlu export`: write a model for llama.cpp or Ollama, with its tokenizer and chat template."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from danlu.cli.terminal.screen import json_line
from danlu.errors import EXIT_OK, UsageError
from danlu.hub.settings import TrainedTemplate
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.say import say
from danlu.settings.foreign_options import options_for
from danlu.settings.schema import Foreign, Settings, option
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.export.gguf_model import ExportReport


class ExportSettings(Settings):
    """Write a model for llama.cpp or Ollama: a GGUF file, for Ollama with its Modelfile."""

    FOREIGN: ClassVar[Mapping[str, Foreign]] = options_for("export")

    model_name_or_path: str | None = option(
        None, "the model: a folder, a merged one too, or starter", aliases=("model",), position=0
    )
    adapter_name_or_path: str | None = option(
        None, "an adapter or a run; it has to be merged first", aliases=("adapter",)
    )
    format: Literal["gguf", "ollama"] = option(
        "gguf", "gguf: for llama.cpp; ollama: with a Modelfile beside it"
    )
    type: Literal["bf16", "q8_0"] = option(
        "bf16", "numbers of the matrices; q8_0 takes half as much and rounds a little"
    )
    export_dir: str = option("", "new folder for the result")
    template: TrainedTemplate = None
    enable_thinking: bool | None = option(
        None, "whether it reasons where nobody says so; as trained if not given"
    )
    json_output: bool = option(False, "print the report as JSON", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Export and say how to use the result."""
    resolved = read_settings(ExportSettings, "export", argv)
    settings = resolved.values
    name = _whole_model(settings)
    if not name or not settings.export_dir:
        raise UsageError(
            _("An export needs a model and a folder for the result."),
            why=_("--model_name_or_path or --export_dir is missing."),
            fix="danlu export my-model --format gguf --export_dir my-gguf",
        )
    folder = Path(settings.export_dir).expanduser().absolute()
    with MovingLine(in_lines=not settings.json_output) as line:
        line.show(_("checking the model"))
        from danlu.dialog.assistant import prompting_line
        from danlu.export.gguf_model import export
        from danlu.hub.prompting import prompting_of_model

        trained = prompting_of_model(name)
        prompting = trained.override(settings.template, settings.enable_thinking)
        report = export(
            name,
            folder,
            form=settings.format,
            type=settings.type,
            prompting=prompting,
            progress=line.show,
        )
    if settings.json_output:
        print(json_line(asdict(report)))
        return EXIT_OK
    say(*_summary(report, folder))
    say(_("{prompting}: written into the file.").format(prompting=prompting_line(prompting)))
    return EXIT_OK


def _whole_model(settings: ExportSettings) -> str | None:
    """Return the model to be exported; a run of full training means its result.

    Raises UsageError for an adapter, which has to be merged first.
    """
    from danlu.hub.adapters import taken_apart

    model, adapter = taken_apart(settings.model_name_or_path, settings.adapter_name_or_path)
    if adapter is None:
        return model
    folder = Path(adapter).expanduser()
    base = [] if model is None else ["--model", model]
    merged = str(folder.with_name(f"{folder.name}-merged"))
    raise UsageError(
        _("{folder} is an adapter, not a whole model.").format(folder=folder),
        why=_("A GGUF file holds the weights of base and adapter together."),
        fix=_("Merge it first: {command}").format(
            command=shlex.join(
                ["danlu", "merge", "--adapter", adapter, *base, "--export_dir", merged]
            )
        ),
    )


def _summary(report: ExportReport, folder: Path) -> list[str]:
    """Say what was written, and the command that uses it."""
    from danlu.export.gguf_model import command_to_use
    from danlu.units import readable_bytes

    path = folder / report.file
    lines = [
        _("Exported: {path} ({count} tensors in {type}, {size})").format(
            path=path,
            count=report.num_tensors,
            type=report.type,
            size=readable_bytes(report.num_bytes),
        )
    ]
    return [*lines, _("Use it: {command}").format(command=command_to_use(report, folder))]
