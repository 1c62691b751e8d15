"""The models that the studio may load: built in, pulled, merged here, and runs of all weights.

A page names one by its id; only ids that are listed here mean a folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from danlu.errors import UsageError
from danlu.files.committed import MANIFEST, discard
from danlu.files.home import danlu_home
from danlu.hub.catalogue.published import find_published
from danlu.hub.catalogue.removal import pulled_under, refuse_trained_on, refuse_used, trained_on
from danlu.hub.names import STARTER, default_name, model_folder, set_default_model
from danlu.hub.store import stored_models
from danlu.language import _
from danlu.program import as_typed
from danlu.runs.checkpoints import FINAL
from danlu.runs.registry import registered_runs, run_id, size_of

Kind = Literal["starter", "pulled", "merged", "run"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that is here. id: how a page names it; word: how commands name it."""

    id: str
    name: str
    kind: Kind
    folder: Path
    word: str

    def fields(self) -> dict[str, Any]:
        """Write it for a page, with its size and the commands that use it elsewhere."""
        word = shlex.quote(self.word)
        serve = as_typed(f"danlu serve --model {word}")
        return {
            **asdict(self),
            "folder": str(self.folder),
            "num_bytes": size_of(self.folder),
            "is_default": default_name() == self.word,
            "chat_command": as_typed(f"danlu chat --model {word}"),
            "serve_command": serve,
            "vllm_command": f"{serve} --engine vllm",
        }


def merged_models_folder() -> Path:
    """Return where the studio writes merged models; it may not exist yet."""
    return danlu_home() / "studio" / "models"


def exports_folder() -> Path:
    """Return where the studio writes models for other programs; it may not exist yet."""
    return danlu_home() / "studio" / "exports"


def known_models() -> Iterator[KnownModel]:
    """List the models that are here and complete."""
    yield KnownModel(
        id=STARTER, name=STARTER, kind="starter", folder=model_folder(STARTER), word=STARTER
    )
    for model in stored_models():
        if model.is_complete:
            yield KnownModel(
                id=model.name, name=model.name, kind="pulled", folder=model.folder, word=model.name
            )
    for folder in sorted(merged_models_folder().glob("*")):
        if (folder / MANIFEST).is_file() and _NAME.fullmatch(folder.name):
            yield KnownModel(
                id=folder.name, name=folder.name, kind="merged", folder=folder, word=str(folder)
            )
    for path, run in registered_runs():
        final = path / FINAL
        if run.kind == "full" and final.is_dir():
            yield KnownModel(
                id=f"run:{run_id(path)}",
                name=path.name,
                kind="run",
                folder=final,
                word=str(final),
            )


def find_known(id_of_model: str) -> KnownModel:
    """Find a listed model. Raises UsageError."""
    for model in known_models():
        if model.id == id_of_model:
            return model
    raise UsageError(
        _("There is no model {name} here.").format(name=repr(id_of_model[:80])),
        why=_("It is none of those that the studio lists."),
        fix=_("Load the list of models again."),
    )


def check_new_name(name: str) -> Path:
    """Return the folder that a merged model of this name gets. Raises UsageError for a bad name."""
    folder = merged_models_folder() / name
    why = ""
    if not _NAME.fullmatch(name):
        why = _("A name is up to 64 letters, digits, dots, dashes and underscores.")
    elif name.lower() == STARTER or find_published(name) is not None:
        why = _("A published model has this name.")
    elif folder.exists():
        why = _("A merged model of this name is here already.")
    if why:
        raise UsageError(
            _("{name} cannot be the name of the new model.").format(name=name[:80]),
            why=why,
            fix=_("Choose another name."),
        )
    return folder


def use_as_default(id_of_model: str) -> str:
    """Make a model the one that is taken where none is named. Raises UsageError."""
    return set_default_model(find_known(id_of_model).word)


def remove_model(name: str, *, loaded: Path | None) -> int:
    """Remove a pulled model, one pulled in part, or a merged one; return the bytes freed.

    loaded: the folder of the model that is in use. Raises UsageError for one that is needed now.
    """
    merged = merged_models_folder() / name
    if _NAME.fullmatch(name) and (merged / MANIFEST).is_file():
        folders = [merged]
        _refuse_merged(name, merged)
    else:
        models = pulled_under(name)
        folders = [model.folder for model in models]
        runs = trained_on(folders)
        for model in models:
            refuse_used(model, runs)
    if loaded in folders:
        raise UsageError(
            _("{name} is not removed.").format(name=name),
            why=_("It is loaded."),
            fix=_("Eject it first."),
        )
    freed = sum(map(size_of, folders))
    for folder in folders:
        discard(folder)
    return freed


def _refuse_merged(name: str, folder: Path) -> None:
    if default_name() == str(folder):
        raise UsageError(
            _("{name} is not removed.").format(name=name),
            why=_("It is the default model."),
            fix="danlu use starter",
        )
    refuse_trained_on(name, trained_on([folder]))
