"""Settings of `danlu chat`."""

from __future__ import annotations

from danlu.dialog.settings import LoadSettings, SamplingChoice
from danlu.settings.ranges import PositiveInt
from danlu.settings.schema import option


class ChatSettings(SamplingChoice, LoadSettings):
    """Talk with a model, a run or an adapter."""

    model_name_or_path: str | None = option(
        None,
        "model folder, or starter (built in, the default); with an adapter its own base is found",
        aliases=("model",),
        position=0,
    )
    prompt: str | None = option(
        None, "answer this and stop; - reads it from standard input", position=1
    )
    adapter_name_or_path: tuple[str, ...] = option(
        (),
        "output folder of a training run, or a PEFT adapter; several as NAME=PATH, /adapter then "
        "chooses",
        aliases=("adapter", "adapters"),
    )
    url: str | None = option(
        None, "talk to a server that speaks OpenAI's API; OPENAI_API_KEY holds its key"
    )
    thinking_budget: PositiveInt | None = option(None, "tokens after which a thought is ended")
    plain: bool = option(False, "write the answers as they come: no Markdown, no figures")
    corrections: str = option(
        "corrections.jsonl", "where /teach keeps corrected answers, a data set for danlu train"
    )
