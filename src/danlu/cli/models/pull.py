"""`danlu pull`: download a published model, resumed after a cut and verified."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from danlu.errors import EXIT_OK
from danlu.hub.catalogue.published import PublishedModel, find_pullable
from danlu.hub.catalogue.sites import Site, Source
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.say import say, say_stopped
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings
from danlu.units import readable_bytes

# Smaller files are verified before anyone could read a line about it.
_SHOWN_FROM = 256 << 20


class PullSettings(Settings):
    """Download a published model; what was cut goes on where it stopped."""

    name: str = option(..., "a model that danlu models lists", aliases=("model",), position=0)
    source: Source = option(
        "auto",
        "the hub to ask; auto: ModelScope first under a Chinese locale and on AutoDL, else Hugging "
        "Face; HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors",
    )


def run(argv: Sequence[str]) -> int:
    """Download, and say how far it is."""
    resolved = read_settings(PullSettings, "pull", argv)
    from danlu.hub.catalogue.sites import sites_of
    from danlu.hub.store import complete_folder, is_stored

    model = find_pullable(resolved.values.name)
    if is_stored(model.name):
        folder = complete_folder(model.name)
        say(_("{name} is here already: {folder}").format(name=model.name, folder=folder))
        return EXIT_OK
    try:
        with MovingLine(in_lines=True) as line:
            _pull(model, sites_of(resolved.values.source), line)
    except KeyboardInterrupt:
        text = _("Stopped; what came stays. Go on with: {command}")
        return say_stopped(text.format(command=shlex.join(["danlu", "pull", *argv])))
    say(_("Pulled and verified: {folder}").format(folder=complete_folder(model.name)))
    say(_("Chat with it: danlu chat {name}").format(name=f"--model {model.name}"))
    return EXIT_OK


def _pull(model: PublishedModel, sites: Sequence[Site], line: MovingLine) -> None:
    from danlu.hub.catalogue.pulling import PullAsks, PullBegun, PulledAgain, pull

    for event in pull(model, sites):
        if isinstance(event, PullAsks):
            text = _("Asking {site}: {address}")
            line.say(text.format(site=event.site.name, address=event.site.address))
        elif isinstance(event, PullBegun):
            line.say(
                _("{name} from {site}: {count} files, {size}").format(
                    name=model.name,
                    site=event.site.name,
                    count=event.num_files,
                    size=readable_bytes(event.num_bytes),
                )
            )
            if event.present_bytes:
                there = readable_bytes(event.present_bytes)
                line.say(_("{size} of it came before; they stay.").format(size=there))
        elif isinstance(event, PulledAgain):
            text = _("{file} is not what the hub lists; it is downloaded again.")
            line.say(text.format(file=event.file))
        elif event.stage == "download":
            line.show(model.name, event.done, event.total)
        elif event.total > _SHOWN_FROM:
            line.show(_("verifying {file}").format(file=event.file), event.done, event.total)
