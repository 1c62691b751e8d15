"""`danlu use`: set the default model, which commands take where none is named."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.errors import EXIT_OK
from danlu.hub.names import STARTER, default_name, set_default_model
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
        from danlu.hub.adapters import check_is_model

        check_is_model(name)
    kept = set_default_model(name)
    say(_("Default model: {name}").format(name=kept))
    say(_("chat, generate, serve, train, plan and eval take it where no model is named."))
    return EXIT_OK
