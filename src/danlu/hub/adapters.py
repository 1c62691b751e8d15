"""What an adapter's name means: a PEFT folder, or the output folder of a training run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from danlu.errors import DataError, UsageError
from danlu.files.committed import MANIFEST, verify
from danlu.hub.load import LoadedModel
from danlu.hub.names import STARTER, model_folder
from danlu.hub.prompting import Prompting, prompting_of_model
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.lora.peft_files import CONFIG_FILE, load_adapter, read_config
from danlu.lora.stored import not_finite
from danlu.model.layout import projection_module
from danlu.runs.checkpoints import FINAL, find_newest
from danlu.runs.manifest import RunManifest, is_run, read_manifest

# How the names of quantised copies end on the hubs: ...-bnb-4bit, ...-GPTQ-Int4, ...-AWQ.
_QUANTIZED = re.compile(r"bnb|gptq|awq|[48][-_]?bit|int[48]|fp8|gguf", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """An adapter's folder and the run that made it, where danlu did."""

    folder: Path
    run: RunManifest | None

    def prompting(self, base: str) -> Prompting:
        """Return how it was trained to be prompted; as its base model where that is unknown.

        Raises DataError where the base's record cannot be read.
        """
        if self.run is None:
            return prompting_of_model(base)
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
    """Name an adapter's base model: as its run recorded it, else as PEFT's file says.

    Raises UsageError where that is not on this machine.
    """
    name = _recorded_base(source)
    if name == STARTER or (name and model_folder(name).is_dir()):
        return name
    why = _("The adapter does not name it.")
    fix = _("Name its folder: --model_name_or_path FOLDER")
    if name:
        why = _("The adapter names {base}, which is no folder on this machine.").format(base=name)
    if _QUANTIZED.search(name):
        why = _("The adapter names {base}, a quantised copy of its base.").format(base=name)
        fix = _("Name the folder of the model it was quantised from: --model_name_or_path FOLDER")
    raise UsageError(
        _("The base model of the adapter {folder} is not found.").format(folder=source.folder),
        why=why,
        fix=fix,
    )


def _recorded_base(source: AdapterSource) -> str:
    if source.run is not None:
        return source.run.base.name if source.run.base.name == STARTER else source.run.base.path
    return read_config(source.folder)[1]


def attach_adapter(
    source: AdapterSource, base: LoadedModel, *, dtype: torch.dtype | None = None
) -> tuple[Adapter, bool]:
    """Load an adapter for a loaded base model; the flag tells whether the base was proven right.

    With a run's record the base's fingerprint must agree; without one only the shapes can be
    checked. dtype None means the base's. Raises DataError for another base, for numbers that are
    not finite, which would spoil every answer, and where danlu wrote the files and they have
    changed since.
    """
    check_adapter(source, name=base.name, fingerprint=base.fingerprint)
    adapter = load_adapter(
        source.folder, base.config, device=base.device.torch_device, dtype=dtype or base.dtype
    )
    for layer, target, a, b in adapter.tensors():
        if not (a.isfinite().all() and b.isfinite().all()):
            raise not_finite(source.folder, projection_module(layer, target))
    return adapter, source.run is not None


def check_adapter(source: AdapterSource, *, name: str, fingerprint: str) -> None:
    """Raise DataError where an adapter belongs to another base, or its files have changed."""
    check_base(source, name=name, fingerprint=fingerprint)
    if (source.folder / MANIFEST).is_file():
        verify(source.folder)


def check_base(source: AdapterSource, *, name: str, fingerprint: str) -> None:
    """Raise DataError where a run's record says that an adapter belongs to another base."""
    if source.run is not None and source.run.base.fingerprint != fingerprint:
        raise DataError(
            _("The adapter {folder} belongs to another base model.").format(folder=source.folder),
            why=_("It was trained on {trained}; {name} has other weights.").format(
                trained=source.run.base.name, name=name
            ),
            fix=_("Use --model_name_or_path {base}").format(base=_recorded_base(source)),
        )


def trained_prompting(model: str, adapter: str | None) -> Prompting:
    """Return how a model is to be prompted, with an adapter or without.

    Raises what `find_adapter` and `prompting_of_model` raise.
    """
    return find_adapter(adapter).prompting(model) if adapter else prompting_of_model(model)
