"""From settings to a model that is served: its name, the base, adapters and the engine's thread.

Loading itself is hub/'s, the engine's and the assistant's.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from danlu.device.detect import DTYPES
from danlu.dialog.assistant import Assistant, model_line, own_sampling, prompting_line
from danlu.engine.service import EngineService
from danlu.errors import UsageError
from danlu.hub.adapters import base_of, find_adapter, load_merged
from danlu.hub.chat_template import template_remarks
from danlu.hub.choosing import chosen_device
from danlu.hub.load import LoadedModel, load_for_answers
from danlu.hub.names import STARTER, default_model, model_folder
from danlu.hub.prompting import Prompting, prompting_of_model
from danlu.language import _
from danlu.moving_line import Progress, no_progress
from danlu.ops import ops_table
from danlu.server.served_adapters import AdapterFolders, load_served_adapter
from danlu.server.settings import ServeSettings
from danlu.server.state import Serving


def model_of(settings: ServeSettings, folders: AdapterFolders) -> str:
    """Name the model to load: the one asked for, the first adapter's base, or the starter."""
    name = settings.model_name_or_path
    if name is None:
        first = next(iter(folders.named.values()), None)
        return default_model() if first is None else base_of(find_adapter(str(first)))
    return name


def name_of(settings: ServeSettings, folders: AdapterFolders) -> str:
    """Say what requests call the model. Raises UsageError where an adapter has that name."""
    if settings.merge_adapter:
        return _merged(settings, folders)[0]
    model = model_of(settings, folders)
    # An adapter without a name of its own is what is served; its base keeps its own name.
    has_nameless = any("=" not in word for word in settings.adapter)
    name = (None if has_nameless else settings.served_model_name) or (
        model if model == STARTER else model_folder(model).name or model
    )
    if name in folders.named:
        raise UsageError(
            _("The model and an adapter are both called {name}.").format(name=name),
            why=_("Requests could not say which one they mean."),
            fix=_("Name the adapter differently, or add --served_model_name NAME"),
        )
    return name


def open_serving(
    settings: ServeSettings, folders: AdapterFolders, progress: Progress = no_progress
) -> Serving:
    """Load everything and start the engine's thread; takes seconds to minutes.

    Raises what loading a model or an adapter raises, and UsageError for a context longer than the
    model's.
    """
    loaded, prompting = _load(settings, folders, progress)
    adapters = {
        name: load_served_adapter(folder, loaded, settings)
        for name, folder in folders.named.items()
        if not settings.merge_adapter
    }
    # After the adapters: the engine's cache takes what memory they leave.
    assistant = Assistant.over(
        loaded,
        prompting.override(settings.template, settings.enable_thinking),
        num_requests=settings.max_num_seqs,
        cache_tokens=settings.cache_tokens,
    )
    num_seats = settings.max_num_seqs + settings.max_queue
    serving = Serving(
        name=name_of(settings, folders),
        assistant=assistant,
        service=EngineService(assistant.engine, num_seats=num_seats),
        defaults={thinks: own_sampling(loaded, enable_thinking=thinks) for thinks in (True, False)},
        context_tokens=_context(settings, assistant.engine.context_tokens),
        adapters=adapters,
    )
    serving.service.start()
    return serving


def _load(
    settings: ServeSettings, folders: AdapterFolders, progress: Progress
) -> tuple[LoadedModel, Prompting]:
    """Load the base, with its adapter merged where that is asked for, and how it is prompted."""
    model, device = model_of(settings, folders), chosen_device(settings.device)
    dtype = DTYPES[settings.dtype]
    if settings.merge_adapter:
        _name, folder = _merged(settings, folders)
        source = find_adapter(str(folder))
        loaded = load_merged(source, model, device=device, dtype=dtype, progress=progress)
        return loaded, source.prompting(model)
    loaded = load_for_answers(
        model, device=device, dtype=dtype, quantization=settings.quantization, progress=progress
    )
    return loaded, prompting_of_model(model)


def _merged(settings: ServeSettings, folders: AdapterFolders) -> tuple[str, Path]:
    """Return the name and folder of the adapter to merge; raises UsageError for other settings."""
    if len(folders.named) != 1 or settings.adapter_dir is not None:
        raise UsageError(
            _("--merge_adapter takes a single adapter, and none may be added later."),
            why=_("The weights hold it then, and could not be used with another one."),
            fix=_("Write for example: danlu serve --adapter runs/fox --merge_adapter true"),
        )
    ((name, folder),) = folders.named.items()
    if settings.quantization is not None:
        raise UsageError(
            _("--merge_adapter cannot be used with --quantization."),
            why=_("Weights in fewer bits cannot be added to."),
            fix=shlex.join(
                ["danlu", "merge", "--adapter", str(folder), "--export_dir", f"{name}-merged"]
            ),
        )
    return name, folder


def _context(settings: ServeSettings, longest: int) -> int:
    if settings.max_model_len is None:
        return longest
    if settings.max_model_len > longest:
        raise UsageError(
            _("The context cannot be {wanted} tokens long.").format(wanted=settings.max_model_len),
            why=_("Model and memory allow {longest}.").format(longest=longest),
            fix=f"--max_model_len {longest}",
        )
    return settings.max_model_len


def describe(serving: Serving) -> list[str]:
    """Say what is served, and how it is prompted."""
    prompting = serving.assistant.prompting
    loaded = serving.assistant.loaded
    table = ops_table(loaded.device.torch_device)
    lines = [model_line(loaded), *table.warn(), prompting_line(prompting)]
    lines += template_remarks(loaded.folder, prompting.template)
    for name, adapter in serving.adapters.items():
        lines.append(_("Adapter {name}: {folder}").format(name=name, folder=adapter.folder))
        if adapter.prompting != prompting:
            lines.append("  " + prompting_line(adapter.prompting))
    return lines
