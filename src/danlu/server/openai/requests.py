"""The bodies of /v1/chat/completions and /v1/completions.

OpenAI's fields, and vLLM's beyond them (top_k, min_p, chat_template_kwargs, structured_outputs and
so on, under its names). Knows shapes and ranges. Must not know models or the engine. Sources:
OpenAI's API reference; vLLM's documentation of its OpenAI-compatible server and of structured
outputs, `guided_*` being the names before 0.12.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    model_validator,
)

from danlu.server.openai.body_types import (
    AcceptedOnly,
    Body,
    JsonObject,
    Text,
    are_token_ids,
    encodable,
    refused,
)
from danlu.server.openai.chat_messages import ChatMessage
from danlu.server.openai.tool_calls import ToolBody, ToolChoiceField

MAX_CHOICES = 8
MAX_PROMPTS = 32
MAX_TOKEN = 2**31 - 1


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > 1024:
        raise ValueError("It may have at most 1024 entries.")
    return value


def _biases(value: dict[str, float]) -> dict[str, float]:
    for name, bias in value.items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise ValueError("Its keys must be token ids.")
        if not -100 <= bias <= 100:
            raise ValueError("Its values must be between -100 and 100.")
    return value


def _prompts(value: object) -> list[str | list[int]]:
    """Read a prompt, or several: each a text or a list of token ids."""
    single = isinstance(value, str) or (value != [] and are_token_ids(value))
    prompts = [value] if single else value
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_PROMPTS:
        raise ValueError(f"It must be a text, token ids, or a list of 1 to {MAX_PROMPTS} of them.")
    for prompt in prompts:
        if isinstance(prompt, str):
            encodable(prompt)
        elif not are_token_ids(prompt):
            raise ValueError("Every prompt must be a text or a list of token ids.")
    if not all(prompts):
        raise ValueError("A prompt is empty: the model needs at least one token to continue.")
    return prompts


def _text_only(value: list[str]) -> list[str]:
    if value != ["text"]:
        raise ValueError("Only text is served.")
    return value


def _one(value: int) -> int:
    if value != 1:
        raise ValueError("Use n: every answer that is computed is returned.")
    return value


StopText = Annotated[Text, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN)]


class StreamOptions(Body):
    """What a stream brings beside the answer. include_usage: one more chunk, with the usage."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class StructuredOutputs(Body):
    """vLLM's way to say what an answer must look like; exactly one of them."""

    json_: JsonObject | Text | None = Field(None, alias="json")
    json_object: Literal[True] | None = None
    regex: Text | None = None
    choice: list[Text] | None = Field(None, min_length=1, max_length=1024)
    grammar: Text | None = Field(None, description="in Lark's notation, as llguidance reads it")

    @model_validator(mode="after")
    def _exactly_one(self) -> StructuredOutputs:
        if sum(getattr(self, name) is not None for name in StructuredOutputs.model_fields) != 1:
            raise ValueError("Give exactly one of json, json_object, regex, choice, grammar.")
        return self


class SamplingBody(AcceptedOnly):
    """How tokens are chosen, when to stop and what to return: the same for both routes.

    What is not given (or null) comes from the model's own files.
    """

    model: Text | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKEN, description="0 and -1: off")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: (
        Annotated[dict[str, float], BeforeValidator(_few), AfterValidator(_biases)] | None
    ) = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: (
        Annotated[
            list[StopText],
            Field(max_length=16),
            BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
        ]
        | None
    ) = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=128)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKEN)
    min_tokens: int | None = Field(None, ge=0, le=MAX_TOKEN)
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonObject | Text | None = None
    guided_regex: Text | None = None
    guided_choice: list[Text] | None = Field(None, min_length=1, max_length=1024)
    guided_grammar: Text | None = None
    user: Text | None = Field(None, description="who asks; nothing is done with it")

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> SamplingBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream: true.")
        return self

    @property
    def choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def ignored(self) -> list[str]:
        """List the fields that were given and will not be honoured."""
        options = self.stream_options
        names = super().ignored()
        if options is not None and options.include_obfuscation:
            names.append("stream_options.include_obfuscation")
        return names


class JsonSchemaFormat(Body):
    """A JSON schema with a name, as OpenAI wants it. It is always enforced."""

    name: Text = Field(max_length=64)
    description: Text | None = None
    schema_: JsonObject = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's way to say what an answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _schema_with_its_type(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema.")
        return self


class TemplateSettings(Body):
    """What the chat template may be told."""

    enable_thinking: bool | None = None


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(SamplingBody):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024, fail_fast=True)
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKEN, description="the same as max_tokens, which it goes before"
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[ToolBody] | None = Field(None, max_length=128, fail_fast=True)
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateSettings | None = None
    reasoning_effort: ReasoningEffort | None = Field(
        None,
        description="none: no thought. Else the longest thought in tokens: minimal 512, low 1024, "
        "medium 4096; above, any",
    )
    thinking_token_budget: int | None = Field(
        None, ge=0, le=MAX_TOKEN, description="tokens after which a thought is ended"
    )
    modalities: Annotated[list[str], AfterValidator(_text_only)] | None = None
    audio: Annotated[Any, refused("Only text is served.")] = None
    functions: Annotated[Any, refused("This is outdated: use tools.")] = None
    function_call: Annotated[Any, refused("This is outdated: use tool_choice.")] = None
    web_search_options: Annotated[Any, refused("The server does not search the web.")] = None

    @model_validator(mode="after")
    def _fields_that_need_others(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only for logprobs: true.")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools: two functions have the same name.")
        choice = self.tool_choice
        if choice is not None and choice.needs_a_call and not names:
            raise ValueError("tool_choice asks for a call, but there are no tools.")
        if choice is not None and choice.name is not None and choice.name not in names:
            raise ValueError("tool_choice names a function that tools does not hold.")
        return self

    @property
    def usable_tools(self) -> list[ToolBody]:
        """The tools that the model is shown."""
        is_forbidden = self.tool_choice is not None and self.tool_choice.mode == "none"
        return [] if is_forbidden else self.tools or []

    def ignored(self) -> list[str]:
        """List the fields that were given and will not be honoured."""
        names = super().ignored()
        if any(message.name and message.role != "tool" for message in self.messages):
            names.append("messages.name")
        is_forced = self.tool_choice is not None and self.tool_choice.needs_a_call
        if any(tool.function.strict for tool in self.tools or ()) and not is_forced:
            names.append("tools.function.strict")
        return names


Prompt = str | list[int]


class CompletionRequest(SamplingBody):
    """The body of /v1/completions. Names of control tokens in a text are text; ids may be any."""

    prompt: Annotated[
        list[Prompt],
        PlainValidator(_prompts, json_schema_input_type=Prompt | list[Prompt]),
    ]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: Annotated[int, AfterValidator(_one)] | None = None
    suffix: Annotated[Any, refused("Text cannot be inserted: the model writes on.")] = None

    @model_validator(mode="after")
    def _fields_that_exclude_others(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise ValueError("The prompt has no log probabilities: use logprobs without echo.")
        return self
