"""Every published Qwen3 as data: names, parameters, size of the files, licence, addresses.

Knows what the publisher says; must not know this machine. No torch here. A size is that of the
weights as published, in bf16; what a download really takes, the hub says before it begins.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from danlu.errors import UsageError
from danlu.language import _
from danlu.model.config import ModelConfig
from danlu.model.sizes import num_parameters, published_config

# The same on Hugging Face and on ModelScope.
OWNER = "Qwen"
LICENSE = "Apache-2.0"

_DENSE = (
    *("Qwen3-0.6B", "Qwen3-0.6B-Base", "Qwen3-1.7B", "Qwen3-1.7B-Base", "Qwen3-4B"),
    *("Qwen3-4B-Base", "Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507", "Qwen3-8B"),
    *("Qwen3-8B-Base", "Qwen3-14B", "Qwen3-14B-Base", "Qwen3-32B"),
)
# Mixtures of experts, and their parameters, counted from each config.json.
_EXPERTS = {
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-30B-A3B-Base": 30_532_122_624,
    "Qwen3-30B-A3B-Instruct-2507": 30_532_122_624,
    "Qwen3-30B-A3B-Thinking-2507": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Qwen3-235B-A22B-Instruct-2507": 235_093_634_560,
    "Qwen3-235B-A22B-Thinking-2507": 235_093_634_560,
}
# Their files hold the output matrix a second time, although it is the embedding.
_STORED_TWICE = ("Qwen3-0.6B", "Qwen3-1.7B")


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published model. config: its shape; None for a mixture of experts, which danlu lacks.

    file_bytes: of the weights.
    """

    name: str
    parameters: int
    file_bytes: int
    config: ModelConfig | None

    @property
    def runs(self) -> bool:
        """Whether danlu can compute it."""
        return self.config is not None

    @property
    def repository(self) -> str:
        """Its name on Hugging Face and on ModelScope."""
        return f"{OWNER}/{self.name}"


def published_models() -> list[PublishedModel]:
    """List all, the smallest first; models of one size stand together."""
    return [*_dense_models(), *(_of_experts(name) for name in _EXPERTS)]


def find_published(name: str) -> PublishedModel | None:
    """Find a model by its name in any case, with or without its owner: qwen/qwen3-8b."""
    wanted = name.lower().removeprefix(f"{OWNER.lower()}/")
    for model in published_models():
        if model.name.lower() == wanted:
            return model
    return None


def find_runnable(name: str) -> PublishedModel:
    """Find a published model that danlu can compute. Raises UsageError."""
    model = find_published(name)
    if model is None:
        names = [one.name for one in published_models() if one.runs]
        near = difflib.get_close_matches(name, names, 1, 0.0)[0]
        raise UsageError(
            _("There is no model {name} to pull.").format(name=name),
            why=_("Those that can be pulled are listed by danlu models."),
            fix=f"danlu pull {near}",
        )
    if not model.runs:
        raise UsageError(
            _("{name} is not pulled.").format(name=model.name),
            why=_("It is a mixture of experts, which danlu cannot run yet."),
            fix="danlu pull Qwen3-32B",
        )
    return model


def _dense_models() -> Iterator[PublishedModel]:
    for name in _DENSE:
        config = published_config(name)
        if config is None:
            raise ValueError(f"{name} has no shape in model/sizes.py")
        parameters = num_parameters(config)
        twice = config.vocab_size * config.hidden_size if name in _STORED_TWICE else 0
        yield PublishedModel(
            name=name, parameters=parameters, file_bytes=2 * (parameters + twice), config=config
        )


def _of_experts(name: str) -> PublishedModel:
    parameters = _EXPERTS[name]
    return PublishedModel(name=name, parameters=parameters, file_bytes=2 * parameters, config=None)
