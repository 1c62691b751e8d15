"""Settings of every command that talks to a model; names as in LLaMA-Factory and transformers."""

from __future__ import annotations

from typing import Literal

from danlu.settings.schema import Settings, option


class ModelSettings(Settings):
    """Which model answers."""

    model_name_or_path: str | None = option(
        None,
        "model folder, or starter (built in, the default); with an adapter its own base is found",
        aliases=("model",),
    )
    adapter_name_or_path: str | None = option(
        None, "output folder of a training run, or a PEFT adapter", aliases=("adapter",)
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option(
        "auto", "precision of the weights"
    )
    quantization: Literal["int8", "int4"] | None = option(
        None, "keep the weights in fewer bits: less memory, faster answers, slightly other numbers"
    )
    device: Literal["auto", "npu", "cuda", "cpu"] = option("auto", "where to compute")


class AnswerSettings(ModelSettings):
    """How a model answers. What is not given comes from the model's own files and its training."""

    system: str | None = option(None, "system prompt")
    template: Literal["qwen3", "qwen3_nothink"] | None = option(None, "chat format")
    enable_thinking: bool | None = option(None, "let the model reason before it answers")
    do_sample: bool = option(True, "false: always take the likeliest token")
    temperature: float | None = option(None, "higher is more varied; 0 is greedy")
    top_p: float | None = option(None, "smallest set of tokens with this probability")
    top_k: int | None = option(None, "only the likeliest tokens; 0 is off")
    min_p: float = option(0.0, "drop tokens below this share of the likeliest one")
    repetition_penalty: float = option(1.0, "above 1: repeat less")
    seed: int | None = option(None, "the same seed gives the same answer")
    max_new_tokens: int | None = option(None, "longest answer in tokens", aliases=("max_tokens",))
