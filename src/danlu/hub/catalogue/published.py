"""Every published Qwen3 as data: names, parameters, size of the files, licence, addresses.

Knows what the publisher says; must not know this machine. No torch here. A size is that of the
weights as published, in bf16; what a download really takes, the hub says before it begins.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

from danlu.errors import UsageError
from danlu.language import _
from danlu.model.config import ModelConfig
from danlu.model.sizes import num_active_parameters, num_parameters, published_config

# The same on Hugging Face and on ModelScope.
OWNER = "Qwen"
LICENSE = "Apache-2.0"

_NAMES = (
    *("Qwen3-0.6B", "Qwen3-0.6B-Base", "Qwen3-1.7B", "Qwen3-1.7B-Base", "Qwen3-4B"),
    *("Qwen3-4B-Base", "Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507", "Qwen3-8B"),
    *("Qwen3-8B-Base", "Qwen3-14B", "Qwen3-14B-Base", "Qwen3-30B-A3B", "Qwen3-30B-A3B-Base"),
    *("Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B-Thinking-2507", "Qwen3-32B"),
    *("Qwen3-235B-A22B", "Qwen3-235B-A22B-Instruct-2507", "Qwen3-235B-A22B-Thinking-2507"),
)
# Their files hold the output matrix a second time, although it is the embedding.
_STORED_TWICE = ("Qwen3-0.6B", "Qwen3-1.7B")


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published model. config: its shape. file_bytes: of the weights.

    active_parameters: those that a token is computed with; fewer where there are experts.
    """

    name: str
    parameters: int
    active_parameters: int
    file_bytes: int
    config: ModelConfig

    @property
    def repository(self) -> str:
        """Its name on Hugging Face and on ModelScope."""
        return f"{OWNER}/{self.name}"


def published_models() -> list[PublishedModel]:
    """List all, the smallest first; models of one size stand together."""
    return [_published(name) for name in _NAMES]


def find_published(name: str) -> PublishedModel | None:
    """Find a model by its name in any case, with or without its owner: qwen/qwen3-8b."""
    wanted = name.lower().removeprefix(f"{OWNER.lower()}/")
    for model in published_models():
        if model.name.lower() == wanted:
            return model
    return None


def find_pullable(name: str) -> PublishedModel:
    """Find a published model. Raises UsageError, naming the one that is most like it."""
    model = find_published(name)
    if model is None:
        near = difflib.get_close_matches(name, _NAMES, 1)
        raise UsageError(
            _("There is no model {name} to pull.").format(name=name),
            why=_("Those that can be pulled are listed by danlu models."),
            fix=f"danlu pull {near[0]}" if near else "danlu models",
        )
    return model


@cache
def _published(name: str) -> PublishedModel:
    config = published_config(name)
    if config is None:
        raise ValueError(f"{name} has no shape in model/sizes.py")
    parameters = num_parameters(config)
    twice = config.vocab_size * config.hidden_size if name in _STORED_TWICE else 0
    return PublishedModel(
        name=name,
        parameters=parameters,
        active_parameters=num_active_parameters(config),
        file_bytes=2 * (parameters + twice),
        config=config,
    )
