"""What a model's name means: `starter`, a pulled model or a folder; and which is the default.

Names are looked up, folders are not opened: loading tells whether one holds a model. Loads no
torch, so that commands which need only the tokenizer start at once.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import danlu
from danlu.errors import AmbiguousName, UsageError
from danlu.files.atomic import atomic_write, make_folder
from danlu.files.home import danlu_home
from danlu.files.json_file import read_json_file
from danlu.hub.catalogue.published import find_published
from danlu.hub.store import complete_folder, is_stored
from danlu.language import _

STARTER = "starter"
_DEFAULT_FILE = "default_model.json"
_USE_STARTER = "danlu use starter"


def model_folder(name: str) -> Path:
    """Return the absolute folder a model's name stands for; loading tells whether it is one.

    Raises UsageError for a published model that is not here, and for a name with two meanings.
    """
    folder = find_model_folder(name)
    if folder is None:
        raise UsageError(
            _("The model {name} is not on this machine.").format(name=name),
            why=_("It is a published model, and neither pulled nor a folder here."),
            fix=f"danlu pull {shlex.quote(name.rpartition('/')[2])}",
        )
    return folder


def find_model_folder(name: str) -> Path | None:
    """Return the folder as `model_folder` does; None for a published model that is not here."""
    if name == STARTER:
        return Path(danlu.__file__).parent / "starter"
    here = Path(name).expanduser().absolute()
    published = find_published(name)
    if published is None:
        return here
    stored = complete_folder(published.name)
    if not is_stored(published.name):
        return here if here.exists() else None
    if here.exists() and not here.samefile(stored):
        raise AmbiguousName(
            _("{name} can mean two models.").format(name=name),
            name=name,
            choices=(str(here), str(stored)),
            why=_("The folder {here}, and the pulled model in {stored}.").format(
                here=here, stored=stored
            ),
            fix=_("Name the folder as {here}, the pulled model as {stored}").format(
                here=shlex.quote(f"./{name}"), stored=shlex.quote(str(stored))
            ),
        )
    return stored


def default_name() -> str:
    """Name the model that is used where none is named, as `danlu use` has set it."""
    file = danlu_home() / _DEFAULT_FILE
    return read_json_file(file, fix=_USE_STARTER).text("model") if file.exists() else STARTER


def default_model() -> str:
    """Name the default model. Raises UsageError where it is no longer on this machine."""
    name = default_name()
    folder = find_model_folder(name)
    if folder is None or not folder.is_dir():
        raise UsageError(
            _("The default model {name} is no longer on this machine.").format(name=name),
            why=_("danlu use has set it, and no model is named here."),
            fix=_USE_STARTER,
        )
    return name


def set_default_model(name: str) -> str:
    """Keep a model as the default, by a name that holds in every folder; return that name."""
    published = find_published(name)
    if name != STARTER:
        folder = model_folder(name)
        is_pulled = published is not None and folder == complete_folder(published.name)
        name = published.name if published and is_pulled else str(folder)
    make_folder(danlu_home())
    record = json.dumps({"model": name}, ensure_ascii=False)
    atomic_write(danlu_home() / _DEFAULT_FILE, record + "\n")
    return name
