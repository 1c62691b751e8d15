"""Settings of every command that talks to a model; names as in LLaMA-Factory and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from danlu.engine.request import RepetitionPenalty, Temperature, TopP
from danlu.hub.settings import AnsweringDtype, CacheTokens, DeviceName, QuantizationChoice
from danlu.settings.foreign_options import options_for
from danlu.settings.ranges import NonNegativeInt, PositiveInt, Seed, Share
from danlu.settings.schema import Foreign, Settings, option
from danlu.text.render import Template

# How long an answer may be where nobody says it: a whole thought of Qwen3 and an answer after it.
ANSWER_TOKENS = 4096


class LoadSettings(Settings):
    """Which model is loaded, and how."""

    model_name_or_path: str | None = option(
        None,
        "model folder, or starter (built in, the default); with an adapter its own base is found",
        aliases=("model",),
    )
    dtype: AnsweringDtype = "auto"
    quantization: QuantizationChoice = None
    device: DeviceName = "auto"
    cache_tokens: CacheTokens = None


class ModelSettings(LoadSettings):
    """Which model answers."""

    adapter_name_or_path: str | None = option(
        None, "output folder of a training run, or a PEFT adapter", aliases=("adapter",)
    )


class SamplingChoice(Settings):
    """How a model answers. What is not given comes from the model's own files and its training."""

    FOREIGN: ClassVar[Mapping[str, Foreign]] = options_for("chat")

    system: str | None = option(None, "system prompt", aliases=("default_system",))
    template: Template | None = option(None, "chat format")
    enable_thinking: bool | None = option(None, "let the model reason before it answers")
    do_sample: bool = option(True, "false: always take the likeliest token")
    temperature: Temperature | None = option(None, "higher is more varied; 0 is greedy")
    top_p: TopP | None = option(None, "smallest set of tokens with this probability")
    top_k: NonNegativeInt | None = option(None, "only the likeliest tokens; 0 is off")
    min_p: Share = option(0.0, "drop tokens below this share of the likeliest one")
    repetition_penalty: RepetitionPenalty = option(1.0, "above 1: repeat less")
    seed: Seed | None = option(None, "the same seed gives the same answer")
    max_new_tokens: PositiveInt | None = option(
        None,
        "longest answer in tokens, its thought included; not given: 4096, or what the context "
        "leaves",
        aliases=("max_tokens",),
    )


class AnswerSettings(SamplingChoice, ModelSettings):
    """Which model answers, and how."""
