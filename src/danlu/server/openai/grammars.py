"""From a request's fields to the grammar that its answer obeys.

The same can be said under OpenAI's name and vLLM's new and old ones; twice is refused. Knows the
form of a call that the renderer writes. Must not know how a grammar is obeyed. Sources:
llguidance's documentation of its Lark syntax and of JSON schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from danlu.engine.grammar import Grammar, GrammarKind
from danlu.engine.grammar_compiler import JSON_WHITE_SPACE, MAX_SOURCE_CHARACTERS
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.openai.requests import ChatRequest, ResponseFormat, SamplingBody
from danlu.server.openai.tool_calls import ToolBody
from danlu.text.conversation import ToolCall
from danlu.text.render import CALL_END, CALL_START, call_text

# By the field of `structured_outputs`, and of the body with `guided_` before it.
_KINDS: Mapping[str, GrammarKind] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "lark",
}

# A call is written as it was learned: one space after colons and commas, no other white space.
_WRITING = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "lenient": True,
}

# An answer may be set in lines. Of several branches that fit, any will do.
_ANSWER = {
    "whitespace_pattern": JSON_WHITE_SPACE,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": True,
}

# The words of a JSON schema that hold a schema, and those that hold several, listed or by name.
_WITH_A_SCHEMA = frozenset({"items", "additionalProperties"})
_WITH_SCHEMAS = frozenset(
    {
        *("properties", "patternProperties", "$defs", "definitions"),
        *("anyOf", "oneOf", "allOf", "prefixItems"),
    }
)
# The formats that llguidance knows; all others are notes.
_FORMATS = frozenset(
    {
        *("date-time", "time", "date", "duration", "email"),
        *("hostname", "ipv4", "ipv6", "uri", "uuid"),
    }
)
# Which values of a word can be checked (None: it is not there). What is left out is what pydantic
# writes for ordinary types: sets, decimals.
Checks = Mapping[str, Callable[[Any], bool]]
_CHECKS: Checks = {
    "format": lambda value: value is None or (isinstance(value, str) and value in _FORMATS),
    "uniqueItems": lambda value: not value,
    "pattern": lambda value: not re.search(r"\(\?(?:[=!]|<[=!])", str(value)),
    "x-guidance": lambda value: value is None,  # llguidance's, which is told what stands here
}
# A tool's schema comes from elsewhere, and the model is shown it: here nothing is refused.
_TOOL_CHECKS: Checks = {
    **_CHECKS,
    **dict.fromkeys(
        (
            *("not", "if", "then", "else", "contains", "minContains", "maxContains"),
            *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies"),
            *("unevaluatedItems", "unevaluatedProperties"),
        ),
        lambda value: value is None,
    ),
}


def grammar_of(body: SamplingBody, response_format: ResponseFormat | None = None) -> Grammar | None:
    """Return the grammar that a body asks for. Raises ApiError where it asks for two."""
    found = [
        (name, _grammar(kind, value, name))
        for name, kind, value in _asked_for(body, response_format)
        if value is not None
    ]
    if len(found) > 1:
        names = ", ".join(name for name, _grammar in found)
        raise ApiError(
            400,
            _("Only one of these can say what the answer looks like: {names}.").format(names=names),
            param=found[1][0],
        )
    for name, grammar in found:
        if len(grammar.source) > MAX_SOURCE_CHARACTERS:
            raise ApiError(
                400,
                _("{name} is too long: {most} characters at most.").format(
                    name=name, most=MAX_SOURCE_CHARACTERS
                ),
                param=name,
            )
    return found[0][1] if found else None


def chat_grammar(body: ChatRequest, tools: Sequence[ToolBody]) -> Grammar | None:
    """Return the grammar of the answer to a chat, calls included."""
    grammar = grammar_of(body, body.response_format)
    choice = body.tool_choice
    several = body.parallel_tool_calls is not False
    if choice is not None and choice.needs_a_call:
        named = [tool for tool in tools if choice.name in (None, tool.function.name)]
        return call_grammar(named, several=several and choice.name is None)
    if grammar is None or not tools:
        return grammar
    if grammar.kind not in ("json_schema", "json_object"):
        raise ApiError(
            400,
            _("With tools an answer can be held to JSON only. Set tool_choice to none."),
            param="tools",
        )
    schema = json.loads(grammar.source) if grammar.source else {"type": "object"}
    return call_grammar(tools, several=several, answer_schema={**schema, "x-guidance": _ANSWER})


def unchecked(body: SamplingBody) -> list[str]:
    """List the words of the body's schemas that no answer is held to."""
    found: list[str] = []
    response_format = body.response_format if isinstance(body, ChatRequest) else None
    for name, kind, value in _asked_for(body, response_format):
        schema = _schema_of(value) if kind == "json_schema" else None
        found += _named(f"{name}.", schema or {}, _CHECKS)
    choice = body.tool_choice if isinstance(body, ChatRequest) else None
    if isinstance(body, ChatRequest) and choice is not None and choice.needs_a_call:
        for tool in body.usable_tools:
            if choice.name in (None, tool.function.name):
                found += _named("tools.", tool.function.parameters or {}, _TOOL_CHECKS)
    return list(dict.fromkeys(found))


def _named(place: str, schema: Mapping[str, Any], checks: Checks) -> list[str]:
    return [f"{place}{word}" for word in sorted(_checkable(schema, checks)[1])]


def _asked_for(
    body: SamplingBody, response_format: ResponseFormat | None
) -> Iterator[tuple[str, GrammarKind, Any]]:
    """Yield the fields that say what the answer looks like: name, kind of grammar, value."""
    if response_format is not None and response_format.type != "text":
        schema = response_format.wanted_schema
        any_object = response_format.type == "json_object" and not schema
        yield "response_format", "json_object" if any_object else "json_schema", schema or {}
    structured = body.structured_outputs
    given = {} if structured is None else structured.model_dump(by_alias=True)
    yield "structured_outputs", "json_object", given.get("json_object")
    for name, kind in _KINDS.items():
        yield "structured_outputs", kind, given.get(name)
    for name, kind in _KINDS.items():
        yield f"guided_{name}", kind, getattr(body, f"guided_{name}")


def _grammar(kind: GrammarKind, value: Any, param: str) -> Grammar:
    """Make a grammar of a field's value: a text, or JSON."""
    if kind == "json_object":
        return Grammar(kind=kind, source="")
    if kind == "json_schema":
        schema = _schema_of(value)
        if schema is None:
            raise ApiError(400, _("The schema is no JSON object."), param=param)
        try:
            value = {**_checkable(schema, _CHECKS)[0], "x-guidance": _ANSWER}
        except RecursionError:
            raise ApiError(400, _("The schema is nested too deeply."), param=param) from None
    return Grammar(kind=kind, source=value if isinstance(value, str) else json.dumps(value))


def _schema_of(value: object) -> dict[str, Any] | None:
    """Read a schema that may be given as text; None where it is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _checkable(schema: Mapping[str, Any], checks: Checks) -> tuple[dict[str, Any], set[str]]:
    """Return a schema without what a grammar cannot check, and the words that it is without.

    An unknown format is not among them: by the standard it is a note only. Other words that the
    grammar does not know are left in, so that it refuses them by name.
    """
    left_out = {word for word, can_check in checks.items() if not can_check(schema.get(word))}
    kept = {word: value for word, value in schema.items() if word not in left_out}

    def inner(value: object) -> object:
        if not isinstance(value, dict):
            return value  # true or false
        part, without = _checkable(value, checks)
        left_out.update(without)
        return part

    for word, value in kept.items():
        if word in _WITH_A_SCHEMA:
            kept[word] = inner(value)
        elif word in _WITH_SCHEMAS and isinstance(value, dict):
            kept[word] = {name: inner(part) for name, part in value.items()}
        elif word in _WITH_SCHEMAS and isinstance(value, list):
            kept[word] = [inner(part) for part in value]
    return kept, left_out - {"format"}


def call_grammar(
    tools: Sequence[ToolBody], *, several: bool, answer_schema: Mapping[str, Any] | None = None
) -> Grammar:
    """Describe an answer that is one call of these tools, or several.

    answer_schema: the answer may also be JSON of this schema, and no call.
    """
    calls = 'call ("\\n" call)*' if several else "call"
    rules = [f"start: {calls}" if answer_schema is None else f"start: {calls} | answer"]
    rules.append("call: " + " | ".join(f"call_{place}" for place in range(len(tools))))
    for place, tool in enumerate(tools):
        head, tail = _around_arguments(tool.function.name)
        rules.append(f"call_{place}: {head} arguments_{place} {tail}")
        rules.append(f"arguments_{place}: %json {_schema(tool.function.parameters)}")
    if answer_schema is not None:
        rules.append(f"answer: %json {json.dumps(dict(answer_schema))}")
    return Grammar(kind="lark", source="\n".join(rules))


def _around_arguments(name: str) -> tuple[str, str]:
    """Return the text before and after a call's arguments, quoted for Lark."""
    head, tail = call_text(ToolCall(name=name, arguments="\0")).split("\0")
    assert head.startswith(CALL_START)
    assert tail.endswith(CALL_END)
    return json.dumps(head), json.dumps(tail)


def _schema(parameters: Mapping[str, Any] | None) -> str:
    if parameters is None:  # OpenAI: a function without parameters
        parameters = {"properties": {}, "additionalProperties": False}
    schema = _checkable(parameters, _TOOL_CHECKS)[0]
    return json.dumps({**schema, "type": "object", "x-guidance": _WRITING})
