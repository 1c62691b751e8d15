"""For whom data are looked at: the model whose tokenizer and template rows are shown with.

That is the loaded model, else the default one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from danlu.data.settings import DataSettings
from danlu.hub.names import default_model, model_folder
from danlu.hub.prompting import prompting_of_model
from danlu.server.state import Serving
from danlu.text.render import Template
from danlu.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A model's name, tokenizer and template, and the longest row in tokens."""

    name: str
    tokenizer: Tokenizer
    template: str
    cutoff_len: int

    def settings(self, words: dict[str, str]) -> DataSettings:
        """Return the settings with which a data set is read for it."""
        return DataSettings.model_validate(
            {**words, "template": self.template, "cutoff_len": self.cutoff_len}
        )


def learner(serving: Serving | None, template: Template | None, cutoff_len: int | None) -> Learner:
    """Return who is to learn; a template and a cutoff that are not given are the model's own.

    Reads a tokenizer, so not on the event loop. Raises what naming a model and reading it raise.
    """
    usual = DataSettings().cutoff_len
    if serving is not None:
        assistant = serving.assistant
        return Learner(
            name=serving.name,
            tokenizer=assistant.loaded.tokenizer,
            template=template or assistant.prompting.template,
            cutoff_len=cutoff_len or usual,
        )
    name = default_model()
    return Learner(
        name=name,
        tokenizer=_tokenizer(name),
        template=template or prompting_of_model(name).template,
        cutoff_len=cutoff_len or usual,
    )


@lru_cache(maxsize=1)
def _tokenizer(name: str) -> Tokenizer:
    return Tokenizer.load(model_folder(name))
