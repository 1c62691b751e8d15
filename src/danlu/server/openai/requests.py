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

from danlu.language import _
from danlu.server.openai.body_types import (
    Body,
    JsonObject,
    Text,
    Whole,
    are_token_ids,
    encodable,
)
from danlu.server.openai.chat_messages import ChatMessage
from danlu.server.openai.foreign_fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    FORMAT_FIELDS,
    REASONING_FIELDS,
    STREAM_FIELDS,
    THINKING_FIELDS,
)
from danlu.server.openai.tool_calls import ToolBody, ToolChoiceField

MAX_CHOICES = 8
# lm-eval sends as many at once as its batch size; the server's seats may be fewer.
MAX_PROMPTS = 1024
MAX_TOKEN = 2**31 - 1


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > 1024:
        raise ValueError(_("It may have at most 1024 entries."))
    return value


def _biases(value: dict[str, float]) -> dict[str, float]:
    for name, bias in value.items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise ValueError(_("Its keys must be token ids."))
        if not -100 <= bias <= 100:
            raise ValueError(_("Its values must be between -100 and 100."))
    return value


def _prompts(value: object) -> list[str | list[int]]:
    """Read a prompt, or several: each a text or a list of token ids."""
    single = isinstance(value, str) or (value != [] and are_token_ids(value))
    prompts = [value] if single else value
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_PROMPTS:
        raise ValueError(
            _("It must be a text, token ids, or a list of 1 to {most} of them.").format(
                most=MAX_PROMPTS
            )
        )
    for prompt in prompts:
        if isinstance(prompt, str):
            encodable(prompt)
        elif not are_token_ids(prompt):
            raise ValueError(_("Every prompt must be a text or a list of token ids."))
    if not all(prompts):
        raise ValueError(_("A prompt is empty: the model needs at least one token to continue."))
    return prompts


def _no_limit(value: object) -> object:
    """Read -1, by which clients of llama.cpp and LM Studio say that there is no limit."""
    return None if value == -1 else value


StopText = Annotated[Text, Field(min_length=1, max_length=256)]
TokenId = Annotated[Whole, Field(ge=0, le=MAX_TOKEN)]
MaxTokens = Annotated[
    Annotated[Whole, Field(ge=1, le=MAX_TOKEN)] | None, BeforeValidator(_no_limit)
]


class StreamOptions(Body):
    """What a stream brings beside the answer; an answer in one piece has its usage anyway.

    include_usage: one more chunk, with the usage. continuous_usage_stats: the usage so far in
    every chunk, as vLLM sends it.
    """

    FOREIGN = STREAM_FIELDS

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


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
            raise ValueError(_("Give exactly one of json, json_object, regex, choice, grammar."))
        return self


class SamplingBody(Body):
    """How tokens are chosen, when to stop and what to return: the same for both routes.

    What is not given (or null) comes from the model's own files.
    """

    model: Text | None = None
    n: Whole | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: Whole | None = Field(None, ge=-1, le=MAX_TOKEN, description="0 and -1: off")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: (
        Annotated[dict[str, float], BeforeValidator(_few), AfterValidator(_biases)] | None
    ) = None
    seed: Whole | None = Field(None, ge=-(2**63), lt=2**63)
    stop: (
        Annotated[
            list[StopText],
            Field(max_length=16),
            BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
        ]
        | None
    ) = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=128)
    max_tokens: MaxTokens = Field(None, description="-1: what the context leaves")
    min_tokens: Whole | None = Field(None, ge=0, le=MAX_TOKEN)
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonObject | Text | None = None
    guided_regex: Text | None = None
    guided_choice: list[Text] | None = Field(None, min_length=1, max_length=1024)
    guided_grammar: Text | None = None
    user: Text | None = Field(None, description="who asks; nothing is done with it")

    @property
    def choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1


class JsonSchemaFormat(Body):
    """A JSON schema, with OpenAI's fields about it. It is always enforced."""

    name: Text | None = Field(None, max_length=64)
    description: Text | None = None
    schema_: JsonObject = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What an answer must look like: OpenAI's form, and llama.cpp's with the schema beside it."""

    FOREIGN = FORMAT_FIELDS

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: JsonObject | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _schema_with_its_type(self) -> ResponseFormat:
        if self.json_schema is not None and (self.type != "json_schema" or self.schema_):
            raise ValueError(_("json_schema belongs to the type json_schema, without schema."))
        if self.type == "json_schema" and self.wanted_schema is None:
            raise ValueError(_("The type json_schema needs json_schema."))
        if self.type == "text" and self.wanted_schema is not None:
            raise ValueError(_("schema belongs to the types json_schema and json_object."))
        return self

    @property
    def wanted_schema(self) -> dict[str, Any] | None:
        """The schema, wherever it stands."""
        return self.schema_ if self.json_schema is None else self.json_schema.schema_


class TemplateSettings(Body):
    """What the chat template may be told."""

    enable_thinking: bool | None = None


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ReasoningSettings(Body):
    """OpenRouter's way to say how long to think. max_tokens: of the thought."""

    FOREIGN = REASONING_FIELDS

    effort: ReasoningEffort | None = None
    max_tokens: Whole | None = Field(default=None, ge=0, le=MAX_TOKEN)
    enabled: bool | None = None


class ThinkingSettings(Body):
    """Anthropic's way to say whether to think, and how many tokens at most."""

    FOREIGN = THINKING_FIELDS

    type: Literal["enabled", "disabled", "auto", "adaptive"] = "auto"
    budget_tokens: Whole | None = Field(default=None, ge=0, le=MAX_TOKEN)

    @property
    def enabled(self) -> bool | None:
        """Whether to think; None leaves it to the model's training."""
        return {"enabled": True, "disabled": False}.get(self.type)


class ChatRequest(SamplingBody):
    """The body of /v1/chat/completions."""

    FOREIGN = CHAT_FIELDS

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024, fail_fast=True)
    max_completion_tokens: MaxTokens = Field(
        None, description="the same as max_tokens, which it goes before"
    )
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)
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
    thinking_token_budget: Whole | None = Field(
        None, ge=0, le=MAX_TOKEN, description="tokens after which a thought is ended"
    )
    enable_thinking: bool | None = Field(
        None, description="the same as enable_thinking in chat_template_kwargs"
    )
    reasoning: ReasoningSettings | None = None
    thinking: ThinkingSettings | None = None

    @model_validator(mode="after")
    def _fields_that_need_others(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError(_("top_logprobs is only for logprobs: true."))
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError(_("tools: two functions have the same name."))
        choice = self.tool_choice
        if choice is not None and choice.needs_a_call and not names:
            raise ValueError(_("tool_choice asks for a call, but there are no tools."))
        if choice is not None and not choice.names <= set(names):
            raise ValueError(_("tool_choice names a function that tools does not hold."))
        return self

    @property
    def usable_tools(self) -> list[ToolBody]:
        """The tools that the model is shown."""
        tools, choice = self.tools or [], self.tool_choice
        if choice is not None and choice.mode == "none":
            return []
        allowed = choice.allowed if choice is not None else None
        return [tool for tool in tools if allowed is None or tool.function.name in allowed]

    def ignored(self) -> list[str]:
        """List what was given and will not be honoured."""
        names = super().ignored()
        is_forced = self.tool_choice is not None and self.tool_choice.needs_a_call
        if any(tool.function.strict for tool in self.tools or ()) and not is_forced:
            names.append("tools.function.strict")
        return names


Prompt = str | list[int]


class CompletionRequest(SamplingBody):
    """The body of /v1/completions. Names of control tokens in a text are text; ids may be any."""

    FOREIGN = COMPLETION_FIELDS

    prompt: Annotated[
        list[Prompt],
        PlainValidator(_prompts, json_schema_input_type=Prompt | list[Prompt]),
    ]
    echo: bool | None = None
    logprobs: Whole | None = Field(None, ge=0, le=20)

    max_tokens: Annotated[
        Annotated[Whole, Field(ge=0, le=MAX_TOKEN)] | None, BeforeValidator(_no_limit)
    ] = Field(None, description="-1: what the context leaves; 0, with echo: the prompt only")

    @model_validator(mode="after")
    def _nothing_only_with_echo(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError(_("max_tokens must be 1 or more, or 0 with echo: true."))
        return self

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the log probabilities of the prompt are wanted too."""
        return bool(self.echo) and self.logprobs is not None
