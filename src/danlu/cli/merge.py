"""`danlu merge`: write an adapter into its base, verify the result, keep the report beside it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, ClassVar

from danlu.cli.terminal.screen import json_line, waiting
from danlu.errors import EXIT_OK, UsageError
from danlu.hub.settings import DeviceName, TrainedTemplate
from danlu.language import _
from danlu.settings.foreign_options import MERGING
from danlu.settings.schema import Foreign, Settings, option
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.export.merge import MergeReport


class MergeSettings(Settings):
    """Merge an adapter into its base model."""

    FOREIGN: ClassVar[Mapping[str, Foreign]] = MERGING

    adapter_name_or_path: str = option("", "the run or adapter to merge", aliases=("adapter",))
    export_dir: str = option("", "new folder for the merged model")
    model_name_or_path: str | None = option(
        None, "the base model; found from the adapter if not given", aliases=("model",)
    )
    template: TrainedTemplate = None
    enable_thinking: bool | None = option(
        None, "whether it reasons where nobody says so; as trained if not given"
    )
    device: DeviceName = option("auto", "where to verify")
    json_output: bool = option(False, "print the report as JSON", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Merge and print how closely the merged model agrees with base and adapter."""
    resolved = read_settings(MergeSettings, "merge", argv)
    if resolved is None:
        return EXIT_OK
    settings = resolved.values
    for name in ("adapter_name_or_path", "export_dir"):
        if not getattr(settings, name):
            raise UsageError(
                _("--{name} is missing.").format(name=name),
                why=_("A merge needs an adapter and a folder for the result."),
                fix="danlu merge --adapter_name_or_path my-run --export_dir my-model",
            )
    with waiting(_("Merging and verifying")):
        from pathlib import Path

        from danlu.device.detect import select
        from danlu.dialog.assistant import prompting_line
        from danlu.export.merge import merge
        from danlu.hub.adapters import base_of, find_adapter

        source = find_adapter(settings.adapter_name_or_path)
        export_dir = Path(settings.export_dir).expanduser().absolute()
        base = settings.model_name_or_path or base_of(source)
        prompting = source.prompting(base).override(settings.template, settings.enable_thinking)
        report = merge(
            base, source, export_dir, device=select(settings.device), prompting=prompting
        )
    if settings.json_output:
        print(json_line(asdict(report)))
        return EXIT_OK
    if not report.base_is_proven:
        print(_("The adapter does not record its base; only the shapes could be checked."))
    print(merge_summary(report))
    print(
        _(
            "{prompting}: recorded for danlu, and the default of its chat template elsewhere."
        ).format(prompting=prompting_line(prompting))
    )
    print(_("Merged model: {path}").format(path=export_dir))
    print(_("Chat with it: danlu chat --model {path}").format(path=shlex.quote(str(export_dir))))
    return EXIT_OK


def merge_summary(report: MergeReport) -> str:
    """Say in one line how the merged model compares with base and adapter."""
    return _(
        "Merged {count} tensors and verified on {tokens} tokens in {dtype}: "
        "largest logit difference {difference:.4f}, same top token {top1:.1%}, KL {kl:.1e}"
    ).format(
        count=report.num_merged_tensors,
        tokens=report.num_probe_tokens,
        dtype=report.verified_in,
        difference=report.max_logit_difference,
        top1=report.top1_agreement,
        kl=report.mean_kl,
    )
