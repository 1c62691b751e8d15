"""Which adapters a server may load, and loading them.

A request never brings a path that is opened: what it names is looked up among the folders that were
registered when the server was started. Files are checked whole before an adapter appears. Must not
know HTTP.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from danlu.errors import UsageError
from danlu.hub.adapters import attach_adapter, find_adapter
from danlu.hub.load import LoadedModel
from danlu.hub.prompting import Prompting
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.lora.peft_files import CONFIG_FILE
from danlu.runs.manifest import is_run
from danlu.server.settings import ServeSettings

# Bounds what one adapter loaded under many names can take of the memory.
MAX_ADAPTERS = 256
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")
_MAX_LISTED = 10_000


@dataclass(frozen=True, kw_only=True)
class ServedAdapter:
    """An adapter that requests may name as their model, and how it was trained to be prompted."""

    folder: Path
    adapter: Adapter
    prompting: Prompting
    loaded_at: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class AdapterFolders:
    """The folders that may be loaded: those with a name, and those inside `below`."""

    named: Mapping[str, Path] = field(default_factory=dict)
    below: Path | None = None

    @classmethod
    def of(
        cls,
        adapters: Sequence[str],
        adapter_dir: str | None = None,
        served_name: str | None = None,
    ) -> AdapterFolders:
        """Read `NAME=PATH` words; PATH alone is named `served_name`, or as its folder.

        Raises UsageError for a bad name and a folder that is missing.
        """
        named: dict[str, Path] = {}
        for word in adapters:
            name, equals, path = word.partition("=")
            if not equals:
                path = word
                name = served_name or Path(word).expanduser().absolute().name
            if not path or not is_adapter_name(name):
                raise UsageError(
                    _("{word} does not name an adapter.").format(word=repr(word)),
                    why=_(
                        "It must be NAME=PATH; a name is up to 64 letters, digits, dots, dashes "
                        "and underscores."
                    ),
                    fix=_("Write for example: danlu serve MODEL --adapter fox=runs/fox"),
                )
            if name in named:
                raise UsageError(
                    _("The adapter name {name} is given twice.").format(name=name),
                    why=_("Requests could not say which one they mean."),
                    fix=_("Give each adapter a name of its own."),
                )
            named[name] = Path(path).expanduser().absolute()
        below = None
        if adapter_dir is not None:
            below = Path(adapter_dir).expanduser().absolute()
            if not below.is_dir():
                raise UsageError(
                    _("The folder {folder} does not exist.").format(folder=below),
                    why=_("Programs are to load adapters from it."),
                    fix=_("Correct --adapter_dir, or create the folder."),
                )
        return cls(named=named, below=below)

    def find(self, path: str) -> Path | None:
        """Look up the folder that a request names; None where it is not registered.

        That is a registered name, a registered folder as it was given, or an adapter's folder below
        `below`, absolute or relative to it.
        """
        for name, folder in self.named.items():
            if path in (name, str(folder)):
                return folder
        return self._listed().get(path.rstrip("/"))

    def _listed(self) -> dict[str, Path]:
        """List the adapters in `below` and one folder deeper, by both their names."""
        if self.below is None:
            return {}
        found: dict[str, Path] = {}
        for folder in _folders_in(self.below):
            for candidate in (folder, *_folders_in(folder)):
                if is_run(candidate) or (candidate / CONFIG_FILE).is_file():
                    found[str(candidate)] = found[str(candidate.relative_to(self.below))] = (
                        candidate
                    )
        return found


def _folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder; links are left out, since they may lead anywhere."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)[:_MAX_LISTED] if not name.startswith(".")]


def is_adapter_name(name: str) -> bool:
    """Whether a text can be an adapter's name in requests."""
    return _NAME.fullmatch(name) is not None


def load_served_adapter(folder: Path, base: LoadedModel, settings: ServeSettings) -> ServedAdapter:
    """Load and check an adapter for the model that is served; takes seconds.

    It is prompted as it was trained to be, unless the server's settings say otherwise. Raises
    UsageError and DataError as `attach_adapter` does.
    """
    source = find_adapter(str(folder))
    adapter, _is_proven = attach_adapter(source, base)
    trained = source.prompting(str(base.folder))
    prompting = trained.override(settings.template, settings.enable_thinking)
    return ServedAdapter(folder=source.folder, adapter=adapter, prompting=prompting)
