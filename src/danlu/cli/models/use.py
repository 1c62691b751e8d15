"""`danlu use`: set the default model, which commands take where none is named."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.errors import EXIT_OK, UsageError
from danlu.hub.names import STARTER, default_name, model_folder, set_default_model
from danlu.language import _
from danlu.say import say
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings


class UseSettings(Settings):
    """Set the model that commands take where none is named; without a name, say which it is."""

    name: str | None = option(
        None, "a pulled model, a model folder, or starter", aliases=("model",), position=0
    )


def run(argv: Sequence[str]) -> int:
    """Check that it is a model, then keep it."""
    resolved = read_settings(UseSettings, "use", argv)
    name = resolved.values.name
    if name is None:
        say(_("Default model: {name}").format(name=default_name()))
        return EXIT_OK
    if name != STARTER:
        _check(name)
    kept = set_default_model(name)
    say(_("Default model: {name}").format(name=kept))
    say(_("chat, generate, serve, train, plan and eval take it where no model is named."))
    return EXIT_OK


def _check(name: str) -> None:
    """Raise UsageError or DataError for what is no model."""
    from danlu.hub.adapters import taken_apart
    from danlu.model.config import load_config

    model, adapter = taken_apart(name, None)
    if adapter is not None or model is None:
        raise UsageError(
            _("{name} is an adapter, not a model.").format(name=name),
            why=_("The default is what runs start from; an adapter is named with --adapter."),
            fix=f"danlu merge --adapter {name} --export_dir merged",
        )
    folder = model_folder(model)
    if not folder.exists():
        raise UsageError(
            _("The model folder {folder} does not exist.").format(folder=folder),
            why=_("A model is a folder with config.json, tokenizer.json and *.safetensors files."),
            fix=_("See which models there are: danlu models"),
        )
    load_config(folder)
