"""How a model is to be prompted: with which template, and in which thinking mode.

A fine-tuned model is prompted as it was trained: that is in run.json, or in the report of the merge
that made it. Another one is prompted as its own chat template does. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from danlu.data.settings import DataSettings
from danlu.files.json_file import read_json_file
from danlu.hub.chat_template import own_template
from danlu.hub.names import model_folder
from danlu.language import _
from danlu.runs.manifest import is_run, read_manifest
from danlu.text.render import TEMPLATES

_Settings = TypeVar("_Settings", bound=DataSettings)
MERGE_REPORT = "merge_report.json"


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """The template and thinking mode to prompt a model with; Qwen3's own where unknown."""

    template: str = "qwen3"
    enable_thinking: bool | None = True

    @property
    def answers_at_once(self) -> bool:
        """Whether a prompt ends with an empty thought, so that the answer begins at once."""
        return self.template == "qwen3" and not self.enable_thinking

    @property
    def only_mode(self) -> bool | None:
        """Whether it thinks always or never, whatever a prompt asks for; None: the prompt decides.

        A model of `qwen3_nothink` that was trained with thoughts may think or not.
        """
        if self.template == "qwen3_thinking":
            return True
        return False if self.template == "qwen3_nothink" and not self.enable_thinking else None

    @property
    def opens_thought(self) -> bool:
        """Whether the prompt itself opens a thought, whatever is asked for."""
        return self.template == "qwen3_thinking"

    def override(self, template: str | None, enable_thinking: bool | None) -> Prompting:
        """Replace what was trained by what is asked for; None leaves it."""
        return Prompting(
            template=self.template if template is None else template,
            enable_thinking=self.enable_thinking if enable_thinking is None else enable_thinking,
        )


def prompting_of_model(name: str) -> Prompting:
    """Return how a model is to be prompted: as its merge report, its run or its template says.

    Raises DataError where the record or the template's file cannot be read.
    """
    folder = model_folder(name)
    report = folder / MERGE_REPORT
    if report.exists():
        return _prompting_in(report)
    for place in (folder, folder.parent):
        if is_run(place):
            run = read_manifest(place)
            return Prompting(template=run.template, enable_thinking=run.enable_thinking)
    own = own_template(folder)
    if own is None or own.format is None:
        return Prompting()
    thinks = own.format != "qwen3_nothink" and not own.answers_at_once
    return Prompting(template=own.format, enable_thinking=thinks)


def with_template(settings: _Settings, prompting: Prompting) -> _Settings:
    """Return settings of data with the template of a prompting, where they name none."""
    if settings.template is not None:
        return settings
    return settings.model_copy(update={"template": prompting.template})


def _prompting_in(report: Path) -> Prompting:
    file = read_json_file(report, fix=_("Merge the adapter again."))
    template = file.text("template")
    if template not in TEMPLATES:
        raise file.broken(
            _("template is {value}; known are {names}").format(
                value=template, names=", ".join(TEMPLATES)
            )
        )
    return Prompting(template=template, enable_thinking=file.switch("enable_thinking"))
