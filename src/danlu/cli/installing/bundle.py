"""`danlu bundle`: write all that an installation without a network needs into one folder."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from danlu.cli.installing.scripts import shipped
from danlu.device.cards import find_cards
from danlu.errors import EXIT_OK, UsageError
from danlu.export.bundle import BundleTarget, write_bundle
from danlu.hub.catalogue.published import find_pullable
from danlu.hub.settings import DeviceName
from danlu.hub.store import complete_folder, is_stored
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.runs.registry import size_of
from danlu.say import say
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings
from danlu.units import readable_bytes


class BundleSettings(Settings):
    """Write all that an installation without a network needs into one folder, with checksums."""

    folder: str = option(..., "new folder for the bundle", position=0)
    models: tuple[str, ...] = option(
        (), "models to take along, which danlu pull has downloaded: Qwen3-8B,Qwen3-4B"
    )
    device: DeviceName = "auto"
    machine: Literal["auto", "x86_64", "aarch64"] = option(
        "auto", "the processor of the machine that it is for; auto: as here"
    )
    python: Literal["auto", "3.10", "3.11", "3.12", "3.13"] = option(
        "auto", "the Python of that machine; auto: as here"
    )
    cann: str = option("9.1", "the CANN of that machine, where it has an NPU")


def run(argv: Sequence[str]) -> int:
    """Look the models up, write the bundle, say how it is used."""
    resolved = read_settings(BundleSettings, "bundle", argv)
    settings = resolved.values
    folder = Path(settings.folder).expanduser().absolute()
    models = [_stored(name) for name in settings.models]
    target = BundleTarget(
        device=find_cards().kind if settings.device == "auto" else settings.device,
        machine=platform.machine() if settings.machine == "auto" else settings.machine,
        python=_python_here() if settings.python == "auto" else settings.python,
        cann=settings.cann,
    )
    with MovingLine(in_lines=True) as line:
        write_bundle(
            folder,
            target,
            models=models,
            scripts={name: path for name, path in shipped().items() if "/" not in name},
            command=_command(folder, target, models),
            progress=line.show,
        )
    size = readable_bytes(size_of(folder))
    say(_("The bundle is in {folder} ({size}).").format(folder=folder, size=size))
    say(
        _("Copy it to the machine that it is for; there: {command}").format(
            command="bash scripts/install.sh"
        )
    )
    return EXIT_OK


def _stored(name: str) -> Path:
    """Return the folder of a pulled model. Raises UsageError."""
    model = find_pullable(name)
    if not is_stored(model.name):
        raise UsageError(
            _("The model {name} is not on this machine.").format(name=model.name),
            why=_("A bundle takes along what danlu pull has downloaded."),
            fix=f"danlu pull {model.name}",
        )
    return complete_folder(model.name)


def _python_here() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _command(folder: Path, target: BundleTarget, models: Sequence[Path]) -> str:
    """Write the command that makes this bundle again, on this machine, with nothing left open."""
    words = [str(Path(sys.executable).with_name("danlu")), "bundle", str(folder)]
    for name, value in vars(target).items():
        words += [f"--{name}", value]
    names = ",".join(model.name for model in models)
    return shlex.join([*words, *(("--models", names) if names else ())])
