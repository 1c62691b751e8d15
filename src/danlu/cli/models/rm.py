"""`danlu rm`: remove a pulled model, after asking, unless something needs it now."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.cli.terminal.asking import agreed
from danlu.errors import EXIT_OK, UsageError
from danlu.files.committed import discard
from danlu.hub.catalogue.removal import pulled_under, refuse_used, trained_on
from danlu.language import _
from danlu.say import say
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings
from danlu.units import readable_bytes


class RmSettings(Settings):
    """Remove a model that danlu pull has downloaded, whole or in part."""

    name: str = option(..., "a model that danlu models shows as here", position=0)
    yes: bool = option(False, "do not ask")


def run(argv: Sequence[str]) -> int:
    """Say what would go, ask, and remove it."""
    resolved = read_settings(RmSettings, "rm", argv)
    settings = resolved.values
    models = pulled_under(settings.name)
    runs = trained_on([model.folder for model in models])
    for model in models:
        refuse_used(model, runs)
    size = readable_bytes(sum(model.num_bytes for model in models))
    for model in models:
        say(f"{readable_bytes(model.num_bytes):>9}  {model.folder}")
    if runs:
        names = ", ".join(run.path.name for run in runs)
        say(
            _("These runs were trained on it and cannot be used without it: {names}").format(
                names=names
            )
        )
    if not settings.yes and not _agreed(settings.name):
        say(_("Nothing was removed."))
        return EXIT_OK
    for model in models:
        discard(model.folder)
    say(_("Removed: {name}, {size}").format(name=models[0].name, size=size))
    return EXIT_OK


def _agreed(name: str) -> bool:
    refusal = UsageError(
        _("{name} is not removed.").format(name=name),
        why=_("Nobody can be asked: the input is not a terminal."),
        fix=f"danlu rm {name} --yes",
    )
    return agreed(_("Remove it? [y/N] "), refusal)
