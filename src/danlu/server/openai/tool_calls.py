"""Tools and tool calls as OpenAI's clients write and read them.

Must not know the engine, or how a model writes a call.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from danlu.language import _
from danlu.server.openai.body_types import Body, JsonObject, Text, encodable
from danlu.text.conversation import ToolCall

# Longer than OpenAI's, and with the marks of servers of tools: `files/read`, `mcp:search`.
_NAME = re.compile(r"[a-zA-Z0-9_./:-]{1,128}")


def _function_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(_("It must be 1 to 128 letters, digits and the marks _ - . / :"))
    return name


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise ValueError(_("The parameters of a function are a JSON object."))
    return schema


FunctionName = Annotated[str, AfterValidator(_function_name)]


class FunctionBody(Body):
    """What a function is called, what it does, and the JSON schema of its parameters."""

    ANNOTATED = True

    name: FunctionName
    description: Text | None = None
    parameters: Annotated[JsonObject, AfterValidator(_object_schema)] | None = None
    strict: bool | None = None


class ToolBody(Body):
    """A function that the model may call."""

    ANNOTATED = True

    type: Literal["function"] = "function"
    function: FunctionBody

    def shown(self) -> dict[str, Any]:
        """Return what the model is shown; `strict` is meant for the server."""
        given = {name: getattr(self.function, name) for name in ("description", "parameters")}
        fields = {name: value for name, value in given.items() if value is not None}
        return {"type": "function", "function": {"name": self.function.name, **fields}}


def _arguments(value: object) -> object:
    """Read arguments that are an object, or nothing, as the text that they would be."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None or value == [] else value  # PHP's empty object


class CalledFunction(Body):
    """The function of a call, by any name that a model may have written; arguments are JSON."""

    ANNOTATED = True

    name: Text
    arguments: Annotated[Text, BeforeValidator(_arguments)] = ""


class CallBody(Body):
    """A call in an assistant's message, as the client got it."""

    ANNOTATED = True

    id: Text | None = None
    type: Literal["function"] | None = None
    function: CalledFunction

    def call(self) -> ToolCall:
        """Return the call in the form that is rendered.

        Arguments that are a JSON object are written anew, as the model writes them.
        """
        text = self.function.arguments
        try:
            fields = json.loads(text.strip() or "{}")
            encodable(json.dumps(fields, ensure_ascii=False, allow_nan=False))
        except (ValueError, RecursionError):
            fields = None
        return ToolCall(
            name=self.function.name, arguments=fields if isinstance(fields, dict) else text
        )


ChoiceMode = Literal["auto", "none", "required", "any"]


@dataclass(frozen=True)
class ToolChoice:
    """Whether to call: as the model likes, never, at least once, or the function `name`.

    allowed: the functions that may be called; None: all.
    """

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None
    allowed: frozenset[str] | None = None

    @property
    def needs_a_call(self) -> bool:
        """Whether the answer must be a call."""
        return self.mode in ("required", "named")

    @property
    def names(self) -> frozenset[str]:
        """The functions that are named."""
        return frozenset([self.name] if self.name else []) | (self.allowed or frozenset())


class ChosenFunction(Body):
    """The name of a function."""

    name: FunctionName


class NamedChoice(Body):
    """One function: that must be called, or that may be."""

    type: Literal["function"] = "function"
    function: ChosenFunction


class ModeChoice(Body):
    """A mode as an object; any is Mistral's and Anthropic's word for required."""

    type: ChoiceMode


class AllowedTools(Body):
    """The functions that may be called, and whether one must be."""

    mode: Literal["auto", "required"]
    tools: list[NamedChoice] = Field(min_length=1, max_length=128)


class AllowedChoice(Body):
    """Some of the functions, as OpenAI says it."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _tool_choice(value: object) -> object:
    """Read a mode, a named function or some allowed ones into a ToolChoice."""
    if value is None or isinstance(value, ToolChoice):
        return value
    if value == "auto" or value == "none" or value == "required":
        return ToolChoice(value)
    if value == "any":
        return ToolChoice("required")
    if not isinstance(value, dict):
        raise ValueError(_("It must be auto, none, required or a function's name as an object."))
    if value.get("type") == "allowed_tools":
        chosen = AllowedChoice.model_validate(value).allowed_tools
        return ToolChoice(chosen.mode, allowed=frozenset(t.function.name for t in chosen.tools))
    if value.get("type") == "function":
        return ToolChoice("named", NamedChoice.model_validate(value).function.name)
    return _tool_choice(ModeChoice.model_validate(value).type)


ToolChoiceField = Annotated[
    ToolChoice | None,
    BeforeValidator(
        _tool_choice,
        json_schema_input_type=ChoiceMode | NamedChoice | ModeChoice | AllowedChoice | None,
    ),
]


def call_fields(call: ToolCall) -> dict[str, Any]:
    """Write a finished call as OpenAI's clients read it, with a new id."""
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": _shown(call.name), "arguments": arguments_text(call.arguments)},
    }


def arguments_text(arguments: Mapping[str, Any] | str) -> str:
    """Write a call's arguments as JSON; what the model wrote may hold half characters."""
    if isinstance(arguments, str):
        return _shown(arguments)
    text = json.dumps(dict(arguments), ensure_ascii=False)
    try:
        return encodable(text)
    except ValueError:
        return json.dumps(dict(arguments))  # as escapes, which every JSON parser takes


def _shown(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
