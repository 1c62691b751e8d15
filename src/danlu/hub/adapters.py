"""What an adapter's name means: a PEFT folder, or the output folder of a training run.

Also finds how a fine-tuned model is to be prompted: the template and thinking mode it was trained
with are in run.json, or in the report of the merge that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from danlu.errors import DataError, UsageError
from danlu.files.committed import MANIFEST, verify
from danlu.files.json_file import read_json_file
from danlu.hub.load import LoadedModel
from danlu.hub.names import STARTER, model_folder
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.lora.peft_files import CONFIG_FILE, load_adapter, read_config
from danlu.runs.checkpoints import FINAL, find_newest
from danlu.runs.manifest import RunManifest, is_run, read_manifest
from danlu.text.render import TEMPLATES

MERGE_REPORT = "merge_report.json"


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """The template and thinking mode of a model's training; Qwen3's own where unknown."""

    template: str = "qwen3"
    enable_thinking: bool | None = True

    def override(self, template: str | None, enable_thinking: bool | None) -> Prompting:
        """Replace what was trained by what is asked for; None leaves it."""
        return Prompting(
            template=self.template if template is None else template,
            enable_thinking=self.enable_thinking if enable_thinking is None else enable_thinking,
        )


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """An adapter's folder and the run that made it, where danlu did."""

    folder: Path
    run: RunManifest | None

    @property
    def prompting(self) -> Prompting:
        """The template and thinking mode that the adapter was trained with."""
        if self.run is None:
            return Prompting()
        return Prompting(template=self.run.template, enable_thinking=self.run.enable_thinking)


def find_adapter(name: str) -> AdapterSource:
    """Find the adapter a folder stands for: final/ of a run, else its newest good checkpoint.

    Raises UsageError where there is none.
    """
    folder = Path(name).expanduser().absolute()
    if is_run(folder):
        final = folder / FINAL
        if (final / CONFIG_FILE).is_file():
            return AdapterSource(folder=final, run=read_manifest(folder))
        newest = find_newest(folder).newest
        if newest is not None and (newest.path / CONFIG_FILE).is_file():
            return AdapterSource(folder=newest.path, run=read_manifest(folder))
        raise _no_adapter(folder, read_manifest(folder))
    read_config(folder)
    run = next((p for p in folder.parents if is_run(p)), None)
    return AdapterSource(folder=folder, run=read_manifest(run) if run else None)


def _no_adapter(folder: Path, run: RunManifest) -> UsageError:
    if run.kind == "full":
        return UsageError(
            _("The run {folder} has no adapter.").format(folder=folder),
            why=_("It trained all weights of the model."),
            fix=f"--model_name_or_path {folder / FINAL}",
        )
    return UsageError(
        _("The run {folder} holds no adapter yet.").format(folder=folder),
        why=_("It was stopped before its first checkpoint."),
        fix=_("Continue it with danlu train ... --resume_from_checkpoint true"),
    )


def base_of(source: AdapterSource) -> str:
    """Name an adapter's base model: as its run recorded it, else as PEFT's file says."""
    if source.run is not None:
        return source.run.base.name if source.run.base.name == STARTER else source.run.base.path
    return read_config(source.folder)[1]


def attach_adapter(
    source: AdapterSource, base: LoadedModel, *, dtype: torch.dtype | None = None
) -> tuple[Adapter, bool]:
    """Load an adapter for a loaded base model; the flag tells whether the base was proven right.

    With a run's record the base's fingerprint must agree; without one only the shapes can be
    checked. dtype None means the base's. Raises DataError for another base, and where danlu wrote
    the files and they have changed since.
    """
    check_base(source, name=base.name, fingerprint=base.fingerprint)
    if (source.folder / MANIFEST).is_file():
        verify(source.folder)
    adapter = load_adapter(
        source.folder, base.config, device=base.device.torch_device, dtype=dtype or base.dtype
    )
    return adapter, source.run is not None


def check_base(source: AdapterSource, *, name: str, fingerprint: str) -> None:
    """Raise DataError where a run's record says that an adapter belongs to another base."""
    if source.run is not None and source.run.base.fingerprint != fingerprint:
        raise DataError(
            _("The adapter {folder} belongs to another base model.").format(folder=source.folder),
            why=_("It was trained on {trained}; {name} has other weights.").format(
                trained=source.run.base.name, name=name
            ),
            fix=_("Use --model_name_or_path {base}").format(base=base_of(source)),
        )


def prompting_of_model(name: str) -> Prompting:
    """Return how a model is to be prompted: as its merge report or its run says, else as Qwen3.

    Raises DataError where the record cannot be read.
    """
    folder = model_folder(name)
    report = folder / MERGE_REPORT
    if report.exists():
        return _prompting_in(report)
    for place in (folder, folder.parent):
        if is_run(place):
            run = read_manifest(place)
            return Prompting(template=run.template, enable_thinking=run.enable_thinking)
    return Prompting()


def _prompting_in(report: Path) -> Prompting:
    file = read_json_file(report, fix=_("Merge the adapter again."))
    template = file.text("template")
    if template not in TEMPLATES:
        raise file.broken(
            _("template is {value}; known are {names}").format(
                value=template, names=", ".join(TEMPLATES)
            )
        )
    return Prompting(template=template, enable_thinking=file.switch("enable_thinking"))
