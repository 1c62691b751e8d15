"""Settings of `danlu serve`; names as in vLLM and LLaMA-Factory where they have one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import SecretStr, field_validator

from danlu.hub.settings import (
    AnsweringDtype,
    CacheTokens,
    DeviceName,
    QuantizationChoice,
    TrainedTemplate,
)
from danlu.language import _
from danlu.server.host_names import listed_name
from danlu.settings.foreign_options import options_for
from danlu.settings.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from danlu.settings.schema import Foreign, Settings, option


class ServeSettings(Settings):
    """Serve a model and its adapters to programs that speak OpenAI's API."""

    FOREIGN: ClassVar[Mapping[str, Foreign]] = options_for("serve")

    model_name_or_path: str | None = option(
        None,
        "model folder, or starter (built in); not given: the base of the first adapter, or starter",
        aliases=("model",),
        position=0,
    )
    adapter: tuple[str, ...] = option(
        (),
        "adapters as NAME=PATH; a request names one as its model. PATH alone is named by its "
        "folder, or by served_model_name",
        aliases=("adapters", "adapter_name_or_path", "lora_modules"),
    )
    merge_adapter: bool = option(
        False,
        "add the adapter, a single one, to the weights when they are loaded: as fast as the base, "
        "which no request can ask then",
    )
    adapter_dir: str | None = option(
        None, "programs may load further adapters, but only from this folder"
    )
    served_model_name: str | None = option(None, "what requests call the model")
    host: str = option("127.0.0.1", "address to listen on; any other needs a key")
    port: Annotated[int, Range(least=0, greatest=65535)] = option(
        8000, "port to listen on; 0: any free one"
    )
    api_key_file: str | None = option(
        None, "file with the keys that programs must show, one a line"
    )
    api_key: SecretStr | None = option(
        None, "one key; better in a file or in DANLU_API_KEY, other users see a command line"
    )
    allowed_host: tuple[str, ...] = option(
        (), "further names under which browsers reach this address, such as my-box.local"
    )
    allowed_origin: tuple[str, ...] = option(
        (), "web pages of other origins that may ask, such as https://chat.example.org"
    )
    max_num_seqs: PositiveInt = option(64, "requests that are computed at once")
    max_queue: NonNegativeInt = option(256, "requests that may wait; more are refused with 429")
    max_requests_per_key: PositiveInt | None = option(
        None, "requests of one key that may be in at once"
    )
    max_model_len: PositiveInt | None = option(
        None, "longest prompt and answer together, in tokens"
    )
    cache_tokens: CacheTokens = None
    # A smaller limit would let no question through.
    max_body_bytes: Annotated[int, Range(least=1024)] = option(
        4 * 1024 * 1024, "largest request body"
    )
    dtype: AnsweringDtype = "auto"
    quantization: QuantizationChoice = None
    device: DeviceName = "auto"
    template: TrainedTemplate = None
    enable_thinking: bool | None = option(
        None, "whether requests that do not say reason before they answer; as trained if not given"
    )
    drain_s: NonNegativeFloat = option(
        30.0, "seconds that running answers have left when the server stops"
    )
    log_prompts: bool = option(False, "write what is asked into the log")
    engine: Literal["danlu", "vllm"] = option(
        "danlu",
        "vllm: check everything, then start vLLM (vllm-ascend on an NPU) in its place; options of "
        "its own stand at the end, behind --",
    )
    tensor_parallel_size: PositiveInt = option(1, "devices that share each layer; vllm only")
    pipeline_parallel_size: PositiveInt = option(1, "devices that share the layers; vllm only")

    @field_validator("served_model_name")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not (value.strip() and value.isprintable()):
            raise ValueError(_("a name is one line that is not empty"))
        return value

    @field_validator("allowed_host")
    @classmethod
    def _are_hosts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if listed_name(value) is None:
                raise ValueError(
                    _("{value} is no name of a host: write one name, such as my-box.local").format(
                        value=repr(value)
                    )
                )
        return values

    @field_validator("allowed_origin")
    @classmethod
    def _are_origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            scheme, _separator, rest = value.partition("://")
            if scheme not in ("http", "https") or not rest or set(rest) & set("/*?#@ "):
                raise ValueError(
                    _("{value} is no origin: write https://NAME or http://NAME:PORT").format(
                        value=value
                    )
                )
        return values
