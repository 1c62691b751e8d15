"""What an adapter's name means: a PEFT folder, or the output folder of a training run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from danlu.device.detect import Device
from danlu.errors import DataError, UsageError
from danlu.files.committed import MANIFEST, verify
from danlu.hub.catalogue.published import find_published
from danlu.hub.load import LoadedModel, load_model, packed
from danlu.hub.names import STARTER, default_model, find_model_folder, model_folder
from danlu.hub.prompting import Prompting, prompting_of_model
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.lora.into_base import add_to_base
from danlu.lora.peft_files import CONFIG_FILE, load_adapter, read_config
from danlu.lora.stored import not_finite
from danlu.model.config import load_config
from danlu.model.layout import projection_module
from danlu.moving_line import Progress, no_progress
from danlu.runs.checkpoints import FINAL, find_newest
from danlu.runs.manifest import RunManifest, is_run, read_manifest
from danlu.runs.registry import find_run, registered_folders
from danlu.runs.resuming import resume_command
from danlu.settings.option_names import DEFAULT
from danlu.settings.schema import Settings

_Settings = TypeVar("_Settings", bound=Settings)

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
    folder = _folder_of(name)
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


def _folder_of(name: str) -> Path:
    """Return the folder an adapter's name stands for: a path, or the name of a known run."""
    folder = Path(name).expanduser().absolute()
    if folder.exists() or Path(name).name != name:
        return folder
    named = [path for path in registered_folders() if path.name == name and is_run(path)]
    return find_run(name) if named else folder


def taken_apart(model: str | None, adapter: str | None) -> tuple[str | None, str | None]:
    """Return (model, adapter), where a run or an adapter that is named as the model is the adapter.

    A run that trained all weights is a model. Raises UsageError where two adapters are named.
    """
    if model is None or model == STARTER:
        return model, adapter
    folder = place_of(model)
    run = read_manifest(folder) if is_run(folder) else None
    if run is not None and run.kind == "full":
        newest = find_newest(folder).newest
        final = folder / FINAL
        place = final if final.is_dir() or newest is None else newest.path
        return str(place), adapter
    if run is None and ((folder / "config.json").is_file() or not _is_adapter(folder)):
        return model, adapter
    if adapter is not None:
        raise UsageError(
            _("Two adapters are named: {first} and {second}.").format(first=model, second=adapter),
            why=_("{first} is named as the model, but it is an adapter or a run.").format(
                first=model
            ),
            fix=_("Leave one of them out."),
        )
    return None, str(folder)


def check_is_model(name: str) -> None:
    """Raise UsageError or DataError for a name of what is no model."""
    model, adapter = taken_apart(name, None)
    if adapter is not None or model is None:
        raise UsageError(
            _("{name} is an adapter, not a model.").format(name=name),
            why=_("The default is what runs start from; an adapter is named with --adapter."),
            fix=f"danlu merge --adapter {shlex.quote(name)} --export_dir merged",
        )
    folder = model_folder(model)
    if not folder.exists():
        raise UsageError(
            _("The model folder {folder} does not exist.").format(folder=folder),
            why=_("A model is a folder with config.json, tokenizer.json and *.safetensors files."),
            fix=_("See which models there are: danlu models"),
        )
    load_config(folder)


def place_of(name: str) -> Path:
    """Return the folder that a model's, an adapter's or a run's name stands for; it may be missing.

    Raises AmbiguousName where there are several.
    """
    folder = find_model_folder(name)
    return folder if folder is not None and folder.exists() else _folder_of(name)


def _is_adapter(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def with_named_model(settings: _Settings, origins: Mapping[str, str]) -> _Settings:
    """Return settings in which the model is a model: the one that is named, or the default one.

    For commands that train or count tokens. A run or an adapter named as the model is the adapter
    to go on with; a model that is not named is the adapter's base. Raises UsageError.
    """
    given = origins["model_name_or_path"] != DEFAULT
    named: str | None = getattr(settings, "adapter_name_or_path", None)
    model, adapter = taken_apart(
        settings.model_dump()["model_name_or_path"] if given else None, named
    )
    if model is None:
        model = default_model() if adapter is None else base_of(find_adapter(adapter))
    update = {"model_name_or_path": model, "adapter_name_or_path": adapter}
    fields = type(settings).model_fields
    return settings.model_copy(update={k: v for k, v in update.items() if k in fields})


def _no_adapter(folder: Path, run: RunManifest) -> UsageError:
    if run.kind == "full":
        return UsageError(
            _("The run {folder} has no adapter.").format(folder=folder),
            why=_("It trained all weights of the model."),
            fix=f"--model_name_or_path {shlex.quote(str(folder / FINAL))}",
        )
    return UsageError(
        _("The run {folder} holds no adapter yet.").format(folder=folder),
        why=_("It was stopped before its first checkpoint."),
        fix=resume_command(folder, run),
    )


def base_of(source: AdapterSource) -> str:
    """Name an adapter's base model: as its run recorded it, else as PEFT's file says.

    Raises UsageError where that is not on this machine.
    """
    name = recorded_base(source)
    place = find_model_folder(name) if name else None
    if place is not None and place.is_dir():
        return name
    why = _("The adapter does not name it.")
    fix = _("Name its folder: --model_name_or_path FOLDER")
    published = find_published(name)
    if name:
        why = _("The adapter names {base}, which is no folder on this machine.").format(base=name)
    if published is not None:
        fix = f"danlu pull {published.name}"
    elif _QUANTIZED.search(name):
        why = _("The adapter names {base}, a quantised copy of its base.").format(base=name)
        fix = _("Name the folder of the model it was quantised from: --model_name_or_path FOLDER")
    raise UsageError(
        _("The base model of the adapter {folder} is not found.").format(folder=source.folder),
        why=why,
        fix=fix,
    )


def common_base(sources: Sequence[AdapterSource]) -> str:
    """Name the base model of several adapters. Raises UsageError where they have different ones."""
    bases = {str(model_folder(base)): base for base in map(base_of, sources)}
    if len(bases) > 1:
        raise UsageError(
            _("The adapters belong to different base models."),
            why="; ".join(f"{source.folder}: {base_of(source)}" for source in sources),
            fix=_("Merge each into its own base, or name one: --model_name_or_path {base}").format(
                base=shlex.quote(base_of(sources[0]))
            ),
        )
    return next(iter(bases.values()))


def unproven_remark(sources: Sequence[AdapterSource], base: str) -> str:
    """Say what is known of the base of adapters that danlu has not trained."""
    names = {recorded_base(source) for source in sources if source.run is None}
    others = sorted(n for n in names if n and find_model_folder(n) != model_folder(base))
    if others:
        return _(
            "ATTENTION: the adapter names {named} as its base and is used with {base}; only the "
            "shapes could be checked."
        ).format(named=", ".join(others), base=base)
    return _("The adapter does not record the base's weights; only the shapes could be checked.")


def unfinished_remark(source: AdapterSource) -> str | None:
    """Say that an adapter is not the end of its run; None where it is, or there is no run."""
    if source.run is None or source.folder.name == FINAL:
        return None
    return _("ATTENTION: {checkpoint} of the run is used, not its end: {state}.").format(
        checkpoint=source.folder.name, state=state_of_run(source.run)
    )


def state_of_run(run: RunManifest) -> str:
    """Say why an adapter may not be the end of its run."""
    return {
        "running": _("it is running, or was killed"),
        "finished": _("it went on and finished"),
        "stopped": _("it stopped early"),
        "failed": _("it failed"),
        "interrupted": _("it was interrupted"),
    }[run.state]


def recorded_base(source: AdapterSource) -> str:
    """Return the base's name or folder as the run, or PEFT's file, has recorded it; "" for none."""
    if source.run is not None:
        return source.run.base.name if source.run.base.name == STARTER else source.run.base.path
    return read_config(source.folder)[1]


def attach_adapter(
    source: AdapterSource, base: LoadedModel, *, dtype: torch.dtype | None = None
) -> tuple[Adapter, bool]:
    """Load an adapter for a loaded base model; the flag tells whether the base was proven right.

    With a run's record the base's fingerprint must agree; without one only the shapes can be
    checked. dtype None means the base's. Raises UsageError for a base whose weights hold another
    adapter, and DataError for another base, for numbers that are
    not finite, which would spoil every answer, and where danlu wrote the files and they have
    changed since.
    """
    if base.merged_adapter is not None:
        raise UsageError(
            _("No adapter can be added: the weights hold {folder} already.").format(
                folder=base.merged_adapter
            ),
            why=_("They were loaded with --merge_adapter true."),
            fix=_("Leave --merge_adapter out, and name all adapters."),
        )
    check_adapter(source, name=base.name, fingerprint=base.fingerprint)
    adapter = load_adapter(
        source.folder, base.config, device=base.device.torch_device, dtype=dtype or base.dtype
    )
    for layer, target, a, b in adapter.tensors():
        if not (a.isfinite().all() and b.isfinite().all()):
            raise not_finite(source.folder, projection_module(layer, target))
    return adapter, source.run is not None


def load_merged(
    source: AdapterSource,
    model: str,
    *,
    device: Device,
    dtype: torch.dtype | None,
    progress: Progress = no_progress,
) -> LoadedModel:
    """Load a model for answers and add an adapter to its weights; on the disk nothing changes.

    Raises what `load_model` and `attach_adapter` raise.
    """
    loaded = load_model(model, device=device, dtype=dtype, progress=progress)
    adapter, _is_proven = attach_adapter(source, loaded, dtype=torch.float32)
    progress(_("Adding the adapter to the weights"), 0, 0)
    add_to_base(loaded.model, adapter)
    return packed(replace(loaded, merged_adapter=source.folder), progress)


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
            fix=_("Use --model_name_or_path {base}").format(
                base=shlex.quote(recorded_base(source))
            ),
        )


def trained_prompting(model: str, adapter: str | None) -> Prompting:
    """Return how a model is to be prompted, with an adapter or without.

    Raises what `find_adapter` and `prompting_of_model` raise.
    """
    return find_adapter(adapter).prompting(model) if adapter else prompting_of_model(model)
