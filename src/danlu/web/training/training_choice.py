"""What a page chooses for a training, and the settings of `danlu train` that it means.

Models, data sets and runs come as names that the server has listed; only the name of the new run is
the user's own, and becomes one folder below DANLU_HOME.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from danlu.errors import UsageError
from danlu.files.home import danlu_home
from danlu.hub.catalogue.published import published_models
from danlu.hub.names import STARTER
from danlu.hub.store import complete_folder, stored_models
from danlu.language import _
from danlu.settings.resolve import Resolved, resolve_page
from danlu.train.settings import TrainSettings
from danlu.web.available_voices import run_folder
from danlu.web.data.registered import dataset_words
from danlu.web.studio import Studio
from danlu.web.training.settings_form import ELSEWHERE

_NAME = re.compile(r"\w[\w.-]*")
_LONGEST_NAME = 64
Value = bool | int | float | Annotated[str, Field(max_length=500)] | None


class TrainingChoice(BaseModel):
    """What is to be trained, on what, and how.

    adapter: a run whose adapter is trained further. eval_dataset: instead of held-out rows. values:
    settings by name; those not given are the preset's, or danlu's.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(max_length=200)] = ""
    model: Annotated[str, Field(max_length=200)] = STARTER
    dataset: Annotated[str, Field(max_length=200)]
    eval_dataset: Annotated[str, Field(max_length=200)] = ""
    adapter: Annotated[str, Field(max_length=64)] = ""
    preset: Annotated[str, Field(max_length=40)] = ""
    values: Annotated[dict[Annotated[str, Field(max_length=64)], Value], Field(max_length=100)] = (
        Field(default_factory=dict)
    )


@dataclass(frozen=True, kw_only=True)
class ChosenTraining:
    """A training that was chosen. given: its settings as they stand in a settings file."""

    resolved: Resolved[TrainSettings]
    given: Mapping[str, Any]
    folder: Path

    @property
    def settings(self) -> TrainSettings:
        """All its settings."""
        return self.resolved.values


def runs_home() -> Path:
    """Return the folder of the runs that are started here."""
    return danlu_home() / "studio" / "runs"


def chosen_training(studio: Studio, choice: TrainingChoice, folder: Path) -> ChosenTraining:
    """Find what a choice means; may write a data set's file, so not on the event loop.

    folder: of the new run. Raises UsageError for names that are not listed, and for values that do
    not suit.
    """
    given: dict[str, Any] = {"model_name_or_path": model_word(studio, choice.model)}
    if choice.adapter:
        given["adapter_name_or_path"] = str(run_folder(choice.adapter))
    given |= dataset_words(studio, choice.dataset)
    if choice.eval_dataset:
        given["eval_dataset"] = _evaluated_on(dataset_words(studio, choice.eval_dataset), given)
    given["output_dir"] = str(folder)
    if choice.preset:
        given["preset"] = choice.preset
    for name, value in choice.values.items():
        if name in ELSEWHERE or name not in TrainSettings.model_fields:
            raise UsageError(
                _("There is no setting named {key}").format(key=repr(name)),
                why=_("This page has settings of danlu train that are no paths."),
                fix=_("Load the page again."),
            )
        given[name] = value
    texts = {name: _text(value) for name, value in given.items()}
    return ChosenTraining(
        resolved=resolve_page(TrainSettings, texts, os.environ), given=given, folder=folder
    )


def new_run_folder(name: str) -> Path:
    """Return the folder of a new run. Raises UsageError for a name that is none, or taken."""
    name = unicodedata.normalize("NFC", name.strip())
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME or len(name.encode()) > 200:
        raise UsageError(
            _("A run cannot be named {name}.").format(name=repr(name[:80])),
            why=_(
                "A name has letters, digits, Chinese characters, dots, hyphens and underscores, "
                "{count} at most, and begins with no dot or hyphen."
            ).format(count=_LONGEST_NAME),
            fix=_("Choose another name."),
        )
    folder = runs_home() / name
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            _("There is a run named {name} already.").format(name=name),
            why=_("A new run would mix its files with those already there."),
            fix=_("Choose another name."),
        )
    return folder


def free_name(wanted: str, taken: set[str]) -> str:
    """Return a name that no run has yet: the wanted one, or with the next number."""
    base = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", wanted)).strip("-._") or "run"
    base, number = base[:48], 1
    name = base
    while name in taken or (runs_home() / name).exists():
        number += 1
        name = f"{base}-{number}"
    return name


def trainable_models(studio: Studio) -> list[dict[str, Any]]:
    """List the models that can be trained, then those that can only be planned for as yet."""
    names = [STARTER, *(model.name for model in stored_models() if model.is_complete)]
    serving = studio.server.serving
    if serving is not None and serving.name not in names and _is_elsewhere(studio):
        names.append(serving.name)
    loaded = serving.name if serving is not None else ""
    here = [{"name": name, "is_here": True, "is_loaded": name == loaded} for name in names]
    published = [model.name for model in published_models()]
    return here + [
        {"name": name, "is_here": False, "is_loaded": False}
        for name in published
        if name not in names
    ]


def model_word(studio: Studio, name: str) -> str:
    """Return what the settings call a listed model. Raises UsageError for another one."""
    for model in trainable_models(studio):
        if model["name"] == name:
            serving = studio.server.serving
            if serving is not None and serving.name == name and _is_elsewhere(studio):
                return str(serving.assistant.loaded.folder)
            return name
    raise UsageError(
        _("The model {name} is not listed here.").format(name=repr(name[:80])),
        why=_("It may have been removed."),
        fix=_("Choose another one."),
    )


def _is_elsewhere(studio: Studio) -> bool:
    """Whether the loaded model is a folder of the user's, which only its path names."""
    serving = studio.server.serving
    if serving is None or serving.name == STARTER:
        return False
    return Path(serving.assistant.loaded.folder) != complete_folder(serving.name)


def _evaluated_on(words: Mapping[str, str], given: Mapping[str, Any]) -> str:
    if words.get("dataset_dir") not in (None, given.get("dataset_dir")):
        raise UsageError(
            _("These two data sets cannot be used together."),
            why=_("Columns were chosen for the one to evaluate on, and it lies elsewhere."),
            fix=_("Choose another one to evaluate on, or none."),
        )
    return words["dataset"]


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
